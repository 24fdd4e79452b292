package agent

// CutGossip has nothing of gossip pass while cut says so; given up is told how
// many members gossip takes for dead.
func (o *Options) CutGossip(cut func() bool, givenUp func(int64)) {
	o.cutGossip, o.gossipLost = cut, givenUp
}
