// Package imports holds the architecture as a test: which package may import
// which (DESIGN.md §2, STYLE.md §4), what the state machine may not touch, and
// the few rules of layout that a reviewer should not have to look for.
//
// The rows in rules.go are the map. A new package needs a row; a new arrow
// needs a reason that a reader of the failure would accept.
package imports
