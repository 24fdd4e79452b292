package top

import (
	"context"
	"fmt"
	"io"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

// Colored is the theme for terminals. It uses the sixteen colors that the user
// has chosen, and bubbletea leaves out what a terminal does not have. Not lipgloss:
// importing it runs `tmux info` before main inside tmux, for every kahu command.
func Colored() Theme {
	var s ansi.Style
	return Theme{
		Title: s.Bold().Styled, Head: s.Bold().Styled, Faint: s.Faint().Styled,
		Good: s.ForegroundColor(ansi.Green).Styled, Warn: s.ForegroundColor(ansi.Yellow).Styled,
		Bad: s.Bold().ForegroundColor(ansi.Red).Styled, Selected: s.Reverse(true).Styled,
	}
}

// Run shows frames in a terminal until the user quits or ctx ends. Only one look
// is under way at a time, and the next begins interval after the one before.
func Run(ctx context.Context, s Source, interval, timeout time.Duration, in io.Reader, out io.Writer) error {
	p := tea.NewProgram(&program{ctx: ctx, source: s, timeout: timeout, model: NewModel(80, 24, interval), theme: Colored()},
		tea.WithContext(ctx), tea.WithInput(in), tea.WithOutput(out))
	_, err := p.Run()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("drawing on the terminal: %w", err)
	}
	return nil
}

// program is a Model as bubbletea wants it.
type program struct {
	ctx     context.Context
	source  Source
	timeout time.Duration
	theme   Theme

	// Of bubbletea's one goroutine.
	model   Model
	looking bool
}

// The messages of the program, besides bubbletea's.
type (
	frameMsg  Frame
	failedMsg struct{ error }
	tickMsg   struct{}
)

// Init implements tea.Model.
func (p *program) Init() tea.Cmd { return p.look() }

// look fetches a frame, unless that is being done.
func (p *program) look() tea.Cmd {
	if p.looking {
		return nil
	}
	p.looking = true
	q := p.model.Wants()
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(p.ctx, p.timeout)
		defer cancel()
		f, err := Look(ctx, p.source, q, time.Now)
		if err != nil {
			return failedMsg{err}
		}
		return frameMsg(f)
	}
}

func (p *program) later() tea.Cmd {
	return tea.Tick(p.model.interval, func(time.Time) tea.Msg { return tickMsg{} })
}

// Update implements tea.Model.
func (p *program) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		p.model = p.model.Resized(msg.Width, msg.Height)
	case frameMsg:
		p.looking = false
		p.model = p.model.Looked(Frame(msg))
		return p, p.later()
	case failedMsg:
		p.looking = false
		p.model = p.model.Failed(msg.error)
		return p, p.later()
	case tickMsg:
		if p.model.Paused() {
			return p, p.later()
		}
		return p, p.look()
	case tea.KeyPressMsg:
		p.model = p.model.Key(msg.String())
		if p.model.Done() {
			return p, tea.Quit
		}
	}
	return p, nil
}

// View implements tea.Model.
func (p *program) View() tea.View {
	v := tea.NewView(p.model.View(p.theme))
	v.AltScreen = true
	return v
}
