// Package top is the live view of `kahu top`: who takes part, who leads, which
// locks are held by whom and who waits for them, how many requests there are and
// how long they take.
//
// It promises that what is shown is a function of what was fetched (Model.View of
// Frames: no clock, no terminal, no color but by a Theme), and that names which
// others chose cannot reach the terminal as control characters. Look fetches one
// Frame from a Source, Run shows Frames in a terminal until the user quits. How the
// agent is reached is left to the Source.
package top
