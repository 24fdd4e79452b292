package history

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// hint looks for the plain mistakes behind an impossible history: a number that
// was given out twice.
func hint(kind string, ops []porcupine.Operation) string {
	seen := map[int64]porcupine.Operation{}
	for _, op := range ops {
		var from, to int64
		switch out := op.Output.(type) {
		case keySetAnswer:
			if !out.done {
				continue
			}
			from, to = out.revision, out.revision
		case lockTryAnswer:
			if !out.granted {
				continue
			}
			from, to = out.token, out.token
		case sequenceAnswer:
			from, to = out.start, out.end
		default:
			continue
		}
		for n := from; n <= to; n++ {
			if before, twice := seen[n]; twice {
				return fmt.Sprintf("; %d was given out twice: to %+v at %d to %d ns and to %+v at %d to %d ns",
					n, before.Input, before.Call, before.Return, op.Input, op.Call, op.Return)
			}
			seen[n] = op
		}
	}
	return fmt.Sprintf("; no %s number was given out twice, so an answer is stale or a change was lost", kind)
}
