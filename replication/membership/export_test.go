package membership

// MarkRemoved notes on the disk of an agent that does not run that nodes were
// removed for good.
func MarkRemoved(dir, node string, nodes []string) error {
	s, err := loadState(dir, node)
	if err != nil {
		return err
	}
	s.Removed = append(s.Removed, nodes...)
	return s.save(dir)
}
