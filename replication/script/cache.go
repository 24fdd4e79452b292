package script

// Cache remembers parsed programs by their text. What is in it never changes an
// outcome: a text is priced alike whether it was parsed or found. A Cache is for
// one goroutine at a time.
type Cache struct {
	// Dropped is called with the text of each program that is forgotten, if set.
	Dropped func(text string)

	limit   int
	entries map[string]*cached
	newest  *cached
	oldest  *cached
	bytes   int
}

type cached struct {
	program      *Program
	newer, older *cached
}

// programBytes estimates what a parsed program takes for each byte of its text.
const programBytes = 20

// NewCache makes a cache that keeps programs of about limitBytes of memory.
func NewCache(limitBytes int) *Cache {
	return &Cache{limit: limitBytes, entries: make(map[string]*cached)}
}

// Parse is Parse, or the program of the same text from before. Texts that are no
// scripts are not remembered. The text is not kept.
func (c *Cache) Parse(text []byte) (*Program, error) {
	if p := c.Get(text); p != nil {
		return p, nil
	}
	p, err := Parse(string(text))
	if err == nil {
		c.Put(p)
	}
	return p, err
}

// Get returns the program of a text that is remembered, or nil.
func (c *Cache) Get(text []byte) *Program {
	e, ok := c.entries[string(text)]
	if !ok {
		return nil
	}
	if e != c.newest {
		c.unlink(e)
		c.link(e)
	}
	return e.program
}

// Put remembers a program.
func (c *Cache) Put(p *Program) {
	if _, ok := c.entries[p.text]; ok {
		return
	}
	e := &cached{program: p}
	c.entries[p.text] = e
	c.link(e)
	for c.bytes += cost(p); c.bytes > c.limit && c.oldest != nil; {
		c.drop(c.oldest)
	}
}

// Has reports whether the program of a text is remembered.
func (c *Cache) Has(text string) bool {
	_, ok := c.entries[text]
	return ok
}

// Len tells how many programs are remembered.
func (c *Cache) Len() int { return len(c.entries) }

func cost(p *Program) int { return 500 + programBytes*len(p.text) }

func (c *Cache) drop(e *cached) {
	c.unlink(e)
	delete(c.entries, e.program.text)
	c.bytes -= cost(e.program)
	if c.Dropped != nil {
		c.Dropped(e.program.text)
	}
}

func (c *Cache) link(e *cached) {
	e.older, e.newer = c.newest, nil
	if c.newest != nil {
		c.newest.newer = e
	}
	c.newest = e
	if c.oldest == nil {
		c.oldest = e
	}
}

func (c *Cache) unlink(e *cached) {
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		c.newest = e.older
	}
	if e.older != nil {
		e.older.newer = e.newer
	} else {
		c.oldest = e.newer
	}
	e.newer, e.older = nil, nil
}
