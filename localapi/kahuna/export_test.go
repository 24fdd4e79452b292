package kahuna

// UnreadBytes is what large answers take that clients have not read.
func (s *Service) UnreadBytes() int64 { return s.answers.taken.Load() }
