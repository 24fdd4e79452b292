package kahuna

// MaxMessageBytes is what a gRPC server of this Service may take in one message.
func (s *Service) MaxMessageBytes() int { return s.cfg.MaxMessageBytes }
