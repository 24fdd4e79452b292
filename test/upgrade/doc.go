// Package upgrade holds tests of what builds of different versions do with each
// other's data: directories that earlier builds have written (testdata, made by
// record.sh), and clusters whose agents are upgraded, and taken back, one by one
// under load. The build before this one is this one with --feature-level-cap, which
// makes it know one level less; with KAHU_BEFORE=PATH it is the kahu at PATH.
package upgrade
