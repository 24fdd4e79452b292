package link

import "context"

// MethodNames are all that a Server answers.
func MethodNames() (names []string) {
	for _, m := range methods {
		names = append(names, m.name)
	}
	return names
}

// DialLink connects to node as a Pool does.
func (d *Dialer) DialLink(ctx context.Context, address, node string) (*Conn, error) {
	return d.dial(ctx, address, ProtocolLink, node)
}

// MethodWatch is the number of Watch.
const MethodWatch = methodWatch
