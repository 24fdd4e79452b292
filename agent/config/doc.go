// Package config turns defaults, a commented YAML file, the environment and
// flags into one checked Config.
//
// Configuration has two forms. File mirrors the text, key for key; Config is
// typed and checked. Check converts the one into the other and reports every
// problem it finds, each by its key; an unknown key is a problem as well. Load
// collects the sources, later ones winning: defaults, file, environment
// (KAHU_DATA_DIR sets data-dir), flags (--data-dir).
//
// Secrets are never values here, only paths of files: a flag is seen by ps, and
// the environment is inherited by every child.
//
// Nothing is started, made or changed by this package. It reads the file, looks
// at whether the secret file can be read, and asks the host for names and
// addresses, all through Host.
package config
