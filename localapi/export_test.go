package localapi

import "github.com/kahu-sh/kahu/localapi/policy"

// Row is a row of the route table, for tests that walk it.
type Row struct {
	Name, Method, Path, Action, Access string
	Verb                               policy.Verb
	Named, Prefix                      bool
}

// Table is the route table.
func (s *Server) Table() []Row {
	var out []Row
	for _, r := range s.routes {
		out = append(out, Row{Name: r.name, Method: r.method, Path: r.path, Action: r.action, Access: string(r.access),
			Verb: r.verb, Named: r.named, Prefix: r.access == onPrefix})
	}
	return out
}
