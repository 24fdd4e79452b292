package history

import (
	"fmt"
	"strings"
)

// cycles looks for cycles of each kind, from the gravest on. What a graph without
// anti-dependencies shows is not shown again with them.
func (c *listChecker) cycles() {
	for _, real := range []edgeKind{0, edgeRT} {
		suffix := ""
		if real != 0 {
			suffix = "-realtime"
		}
		if c.cycle("G0"+suffix, edgeWW|real, 0) || c.cycle("G1c"+suffix, edgeWW|edgeWR|real, 0) ||
			c.cycle("G-single"+suffix, edgeWW|edgeWR|real, edgeRW) || c.cycle("G2"+suffix, edgeWW|edgeWR|edgeRW|real, 0) {
			return
		}
	}
}

// cycle reports a shortest cycle of edges of these kinds, with exactly one edge
// of the kind once, when that is not 0. It returns whether there is one.
func (c *listChecker) cycle(name string, kinds, once edgeKind) bool {
	component := c.components(kinds | once)
	var best []step
	for from := range c.graph {
		for _, e := range c.graph[from] {
			if component[from] != component[e.to] || once == 0 && e.kind&kinds == 0 || once != 0 && e.kind != once {
				continue
			}
			// This edge, and the way back without one more of that kind.
			if path := c.path(e.to, from, kinds, component); path != nil && (best == nil || len(path)+1 < len(best)) {
				best = append([]step{{from, e}}, path...)
			}
		}
		if len(best) == 2 {
			break
		}
	}
	if best == nil {
		return false
	}
	var parts []string
	for _, s := range best {
		parts = append(parts, fmt.Sprintf("%s -%s(%s)->", c.txs[s.from], s.kind, s.why))
	}
	c.report(name, "%s %s", strings.Join(parts, " "), c.txs[best[0].from])
	return true
}

// step is one edge of a path.
type step struct {
	from int
	edge
}

// path is a shortest way from one transaction to another within a component, by
// edges of these kinds; not nil and empty when they are the same.
func (c *listChecker) path(from, to int, kinds edgeKind, component []int) []step {
	if from == to {
		return []step{}
	}
	came := map[int]step{from: {}}
	for queue := []int{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, e := range c.graph[at] {
			if _, been := came[e.to]; been || e.kind&kinds == 0 || component[e.to] != component[to] {
				continue
			}
			came[e.to] = step{at, e}
			if e.to != to {
				queue = append(queue, e.to)
				continue
			}
			var back []step
			for n := to; n != from; n = came[n].from {
				back = append([]step{came[n]}, back...)
			}
			return back
		}
	}
	return nil
}

// components numbers the strongly connected components of the graph of these
// kinds of edges (Tarjan's algorithm, without recursion: histories are long).
func (c *listChecker) components(kinds edgeKind) []int {
	n := len(c.graph)
	number, low, component := make([]int, n), make([]int, n), make([]int, n)
	on := make([]bool, n)
	var stack []int
	type frame struct{ node, next int }
	counter, components := 0, 0
	for root := range n {
		if number[root] != 0 {
			continue
		}
		work := []frame{{root, 0}}
		for len(work) > 0 {
			f := &work[len(work)-1]
			v := f.node
			if f.next == 0 {
				counter++
				number[v], low[v], on[v] = counter, counter, true
				stack = append(stack, v)
			}
			descended := false
			for f.next < len(c.graph[v]) {
				e := c.graph[v][f.next]
				f.next++
				if e.kind&kinds == 0 {
					continue
				}
				if number[e.to] == 0 {
					work = append(work, frame{e.to, 0})
					descended = true
					break
				}
				if on[e.to] {
					low[v] = min(low[v], number[e.to])
				}
			}
			if descended {
				continue
			}
			if f.next == 0 {
				f.next = 1 // no edges: it was numbered
			}
			if low[v] == number[v] {
				components++
				for {
					w := stack[len(stack)-1]
					stack = stack[:len(stack)-1]
					on[w], component[w] = false, components
					if w == v {
						break
					}
				}
			}
			work = work[:len(work)-1]
			if len(work) > 0 {
				p := work[len(work)-1].node
				low[p] = min(low[p], low[v])
			}
		}
	}
	return component
}
