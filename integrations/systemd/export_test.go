package systemd

// For the fuzz target of names in the descriptor store.
var (
	StoredName  = storedName
	ParseStored = parseStored
)

// MaxStored bounds the pidfds of one hold.
const MaxStored = maxStored
