package clocks

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Supported reports whether Shift works on this architecture.
const Supported = true

// code replaces clock_gettime of the vDSO; see the package doc. The offset stands
// behind it, at offsetAt: aligned, so that a write of it is seen whole.
var code = []byte{
	0xb8, 228, 0, 0, 0, // mov eax, 228
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x75, 14, // jnz done
	0x85, 0xff, // test edi, edi
	0x75, 10, // jnz done
	0x48, 0x8b, 0x0d, offsetAt - 22, 0, 0, 0, // mov rcx, [rip + …]
	0x48, 0x01, 0x0e, // add [rsi], rcx
	0xc3, // done: ret
}

const offsetAt = 32

// maxSteps bounds how many instructions a thread needs to leave the function.
const maxSteps = 10_000

// shift does it for one process. false: it has ended.
func shift(pid int, seconds int64) (bool, error) {
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer memory.Close()
	at, size, err := clockGettime(pid, memory)
	if gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if at%8 != 0 || size < offsetAt+8 {
		return false, fmt.Errorf("clock_gettime of this kernel's vDSO is at %#x and has %d bytes: it cannot be replaced", at, size)
	}
	found := make([]byte, len(code))
	_, err = memory.ReadAt(found, at)
	if err == nil && !bytes.Equal(found, code) {
		err = held(pid, at, at+size, func() error {
			// Whatever stood there must not be taken for an offset.
			_, err := memory.WriteAt(append(slices.Clone(code), make([]byte, offsetAt+8-len(code))...), at)
			return err
		})
	}
	if err == nil {
		_, err = memory.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(seconds)), at+offsetAt)
	}
	if gone(err) {
		return false, nil
	}
	return err == nil, err
}

// gone reports whether a process has ended under our hands, or has become another
// program by exec: the memory that was opened is empty then.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EIO)
}

// clockGettime finds the function in the process's vDSO.
func clockGettime(pid int, memory io.ReaderAt) (at, size int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	if len(maps) == 0 {
		return 0, 0, io.EOF // a zombie
	}
	for line := range strings.Lines(string(maps)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			return 0, 0, fmt.Errorf("the line %q: %w", line, err)
		}
		image := make([]byte, to-from)
		if _, err := memory.ReadAt(image, from); err != nil {
			return 0, 0, fmt.Errorf("reading the vDSO: %w", err)
		}
		file, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			return 0, 0, fmt.Errorf("reading the vDSO: %w", err)
		}
		symbols, err := file.DynamicSymbols()
		if err != nil {
			return 0, 0, fmt.Errorf("reading the vDSO's symbols: %w", err)
		}
		for _, s := range symbols {
			if s.Name == "__vdso_clock_gettime" {
				return from + int64(s.Value), int64(s.Size), nil
			}
		}
	}
	return 0, 0, errors.New("it has no vDSO with a clock_gettime")
}

// held calls do while no thread of the process runs, and none stands in
// [from, to). Its caller is a program that does nothing else: the tracer is a thread.
func held(pid int, from, to int64, do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	threads, err := seize(pid)
	for i := range threads {
		if err == nil {
			err = threads[i].leave(from, to)
		}
	}
	if err == nil {
		err = do()
	}
	for _, t := range threads {
		t.release()
	}
	return err
}

// A thread is one that is traced.
type thread struct {
	tid    int
	signal unix.Signal // it was about to get; 0: none
}

// release lets a thread go on, with the signal that it would have got. It may have
// been killed meanwhile.
func (t thread) release() {
	_, _, _ = unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_DETACH, uintptr(t.tid), 0, uintptr(t.signal), 0, 0)
}

// leave has a thread go on, an instruction at a time, until it is out of [from, to).
func (t *thread) leave(from, to int64) error {
	for range maxSteps {
		var registers unix.PtraceRegs
		if err := unix.PtraceGetRegs(t.tid, &registers); err != nil {
			return nil // killed, or never stopped: it ends
		}
		if at := int64(registers.Rip); at < from || at >= to {
			return nil
		}
		if err := unix.PtraceSingleStep(t.tid); err != nil {
			return nil // killed
		}
		if !t.wait() {
			return nil
		}
	}
	return fmt.Errorf("a thread reads the clock for more than %d instructions", maxSteps)
}

// wait waits for the thread to stop, and keeps the signal that it would have got.
// false: it has ended instead.
func (t *thread) wait() bool {
	var status unix.WaitStatus
	if _, err := unix.Wait4(t.tid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		return false
	}
	// The stops that are asked for are an event, and SIGTRAP after a single step.
	if sig := status.StopSignal(); int(status)>>16 != unix.PTRACE_EVENT_STOP && sig != unix.SIGTRAP {
		t.signal = sig
	}
	return true
}

// seize stops all threads of a process.
func seize(pid int) (threads []thread, err error) {
	traced := func(tid int) bool {
		return slices.ContainsFunc(threads, func(t thread) bool { return t.tid == tid })
	}
	for fresh := true; fresh; { // until no thread appears any more
		fresh = false
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return threads, err
		}
		for _, e := range entries {
			tid, err := strconv.Atoi(e.Name())
			if err != nil || traced(tid) {
				continue
			}
			switch err := unix.PtraceSeize(tid); {
			case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EPERM) && ending(pid, tid):
				continue // a thread that has ended
			case err != nil:
				return threads, fmt.Errorf("tracing it: %w", err)
			}
			t := thread{tid: tid}
			if err := unix.PtraceInterrupt(tid); err == nil {
				t.wait() // or it ends
			}
			threads, fresh = append(threads, t), true
		}
	}
	return threads, nil
}

// ending reports whether a thread is a zombie, which cannot be traced.
func ending(pid, tid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}
