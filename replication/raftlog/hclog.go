package raftlog

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// repeatEvery is how often the same message of hashicorp's libraries is passed
// on: a peer that is down would otherwise write several lines a second.
const repeatEvery = 10 * time.Second

// HCLog returns an hclog.Logger that writes to logger, one level lower than
// asked: what hashicorp's libraries call information is detail here, and what
// they call an error is mostly a peer that is away. Errors that end the voter
// take another way.
func HCLog(logger *slog.Logger) hclog.Logger {
	return &adapter{logger: logger, repeats: &repeats{last: map[string]time.Time{}}}
}

// adapter implements hclog.Logger.
type adapter struct {
	logger  *slog.Logger
	name    string
	implied []any
	repeats *repeats
}

// repeats remembers when a message was last passed on. Messages are constants,
// so the map is bounded by the source.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *repeats) allow(msg string) bool {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[msg]; ok && now.Sub(last) < repeatEvery {
		return false
	}
	r.last[msg] = now
	return true
}

func slogLevel(level hclog.Level) slog.Level {
	switch level {
	case hclog.Error:
		return slog.LevelWarn
	case hclog.Warn:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

// Log implements hclog.Logger.
func (a *adapter) Log(level hclog.Level, msg string, args ...any) {
	l := slogLevel(level)
	if !a.logger.Enabled(context.Background(), l) || l > slog.LevelDebug && !a.repeats.allow(msg) {
		return
	}
	// hclog's deferred formats are resolved here, because slog does not know them.
	args = slices.Clone(args)
	for i, arg := range args {
		if f, ok := arg.(hclog.Format); ok && len(f) > 0 {
			args[i] = formatted(f)
		}
	}
	a.logger.Log(context.Background(), l, msg, args...)
}

func (a *adapter) Trace(msg string, args ...any) { a.Log(hclog.Trace, msg, args...) }
func (a *adapter) Debug(msg string, args ...any) { a.Log(hclog.Debug, msg, args...) }
func (a *adapter) Info(msg string, args ...any)  { a.Log(hclog.Info, msg, args...) }
func (a *adapter) Warn(msg string, args ...any)  { a.Log(hclog.Warn, msg, args...) }
func (a *adapter) Error(msg string, args ...any) { a.Log(hclog.Error, msg, args...) }

func (a *adapter) enabled(level hclog.Level) bool {
	return a.logger.Enabled(context.Background(), slogLevel(level))
}
func (a *adapter) IsTrace() bool { return a.enabled(hclog.Trace) }
func (a *adapter) IsDebug() bool { return a.enabled(hclog.Debug) }
func (a *adapter) IsInfo() bool  { return a.enabled(hclog.Info) }
func (a *adapter) IsWarn() bool  { return a.enabled(hclog.Warn) }
func (a *adapter) IsError() bool { return a.enabled(hclog.Error) }

func (a *adapter) ImpliedArgs() []any { return a.implied }
func (a *adapter) Name() string       { return a.name }

func (a *adapter) With(args ...any) hclog.Logger {
	with := *a
	with.implied = append(slices.Clip(a.implied), args...)
	with.logger = a.logger.With(args...)
	return &with
}

func (a *adapter) Named(name string) hclog.Logger {
	if a.name != "" {
		name = a.name + "." + name
	}
	return a.ResetNamed(name)
}

func (a *adapter) ResetNamed(name string) hclog.Logger {
	named := *a
	named.name = name
	return &named
}

// SetLevel and GetLevel: the level belongs to the slog.Logger.
func (a *adapter) SetLevel(hclog.Level)  {}
func (a *adapter) GetLevel() hclog.Level { return hclog.NoLevel }

func (a *adapter) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug)
}

func (a *adapter) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return a.StandardLogger(o).Writer()
}

// formatted renders an hclog.Format: a format string and its arguments.
func formatted(f hclog.Format) string {
	format, ok := f[0].(string)
	if !ok {
		return fmt.Sprint(f...)
	}
	return fmt.Sprintf(format, f[1:]...)
}
