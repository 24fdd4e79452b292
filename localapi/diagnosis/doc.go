// Package diagnosis turns what an agent tells of itself into one verdict, and into
// what to do about each thing that is wrong.
//
// It promises that a Report of an agent without problems is Healthy and of one that
// cannot take requests Down, that every Problem says what to do, and that it depends
// on nothing but what is handed in: no clock, no agent. Diagnose is the entry. How
// the agent is asked and how a report is shown is left to cmd/kahu.
package diagnosis
