package rest

// Routes lists "METHOD /path" of the whole table.
func Routes() []string {
	var all []string
	for _, r := range routeTable() {
		path := r.path
		if path == "" {
			path = "/"
		}
		all = append(all, r.method+" "+path)
	}
	return all
}

// MaxLargeBodies is the number of large bodies at a time.
const MaxLargeBodies = maxLargeBodies

// MaxItems is how many items a list in a body may have.
const MaxItems = maxItems
