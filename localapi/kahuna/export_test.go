package kahuna

// UnreadBytes is what large answers take that clients have not read.
func (s *Service) UnreadBytes() int64 { return s.answers.taken.Load() }

// Streams is how many batch streams are served.
func (s *Service) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}
