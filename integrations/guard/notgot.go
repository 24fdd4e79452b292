package guard

import "fmt"

// reasonTimeout is why the agent ends a hold whose turn did not come in time.
const reasonTimeout = "timeout"

// notGot says why there is no lock, and what can be done about it.
func (k *keeper) notGot(reason string) string {
	switch {
	case reason == reasonTimeout && k.Wait == 0:
		return fmt.Sprintf("the lock %s is held by somebody else (kahu lock info says by whom); wait in line with a longer --wait", k.Lock)
	case reason == reasonTimeout:
		return fmt.Sprintf("the lock %s was not got within %v", k.Lock, k.Wait)
	}
	return fmt.Sprintf("the lock %s was not got (%s)", k.Lock, reason)
}
