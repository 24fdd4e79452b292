package forward

// Resting reports whether who listens has stopped its clock.
func (f *Forwarder) Resting() bool { return f.resting.Load() }
