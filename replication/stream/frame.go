package stream

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	version     = 1
	helloBytes  = 24
	prefixBytes = 4  // the length itself
	headBytes   = 10 // what length counts besides the payload
	// firstReadBytes is allocated for a payload before any byte of it has come; a
	// peer that announces more has to send it to make us allocate more.
	firstReadBytes = 256 << 10
)

type kind uint8

const (
	kindCall kind = 1 + iota
	kindOpen
	kindUp
	kindDown
	kindAnswer
	kindFail
	kindEnd
	kindCancel
	kindCreditUp
	kindCreditDown
	kindPing
	kindPong
	kindAfterLast
)

// limits are what one side accepts from the other, as told in its hello.
type limits struct {
	frameBytes    uint32
	inFlight      uint32
	inFlightBytes uint64
}

func appendHello(b []byte, l limits) []byte {
	b = append(b, Magic...)
	b = append(b, version)
	b = binary.BigEndian.AppendUint32(b, l.frameBytes)
	b = binary.BigEndian.AppendUint32(b, l.inFlight)
	return binary.BigEndian.AppendUint64(b, l.inFlightBytes)
}

func readHello(r io.Reader) (limits, error) {
	var b [helloBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return limits{}, err
	}
	if string(b[:len(Magic)]) != Magic {
		return limits{}, fmt.Errorf("%w: the other side does not speak kahu's stream (it sent %q)", ErrProtocol, b[:len(Magic)])
	}
	if v := b[len(Magic)]; v != version {
		return limits{}, fmt.Errorf("%w: the other side speaks stream version %d, this side %d", ErrProtocol, v, version)
	}
	l := limits{
		frameBytes:    binary.BigEndian.Uint32(b[8:]),
		inFlight:      binary.BigEndian.Uint32(b[12:]),
		inFlightBytes: binary.BigEndian.Uint64(b[16:]),
	}
	if l.frameBytes < headBytes+8 || l.inFlight == 0 || l.inFlightBytes == 0 {
		return limits{}, fmt.Errorf("%w: the other side accepts nothing (frames of %d bytes, %d requests, %d bytes)",
			ErrProtocol, l.frameBytes, l.inFlight, l.inFlightBytes)
	}
	return l, nil
}

// frame is one frame read. Its payload is owned by whoever gets it.
type frame struct {
	id      uint64
	kind    kind
	method  uint8
	payload []byte
}

func putHead(b []byte, id uint64, k kind, method uint8, payloadBytes int) {
	binary.BigEndian.PutUint32(b, uint32(headBytes+payloadBytes))
	binary.BigEndian.PutUint64(b[4:], id)
	b[12] = byte(k)
	b[13] = method
}

// readFrame reads one frame of at most max bytes after its length. An error
// that does not wrap ErrProtocol comes from r.
func readFrame(r *bufio.Reader, max uint32) (frame, error) {
	head, err := r.Peek(prefixBytes + headBytes)
	if err != nil {
		if errors.Is(err, io.EOF) && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(head)
	f := frame{
		id:     binary.BigEndian.Uint64(head[4:]),
		kind:   kind(head[12]),
		method: head[13],
	}
	if _, err := r.Discard(prefixBytes + headBytes); err != nil {
		return frame{}, err
	}
	if length < headBytes {
		return frame{}, fmt.Errorf("%w: a frame says %d bytes, less than its head", ErrProtocol, length)
	}
	if length > max {
		return frame{}, fmt.Errorf("%w: a frame of %d bytes, %d are accepted", ErrProtocol, length, max)
	}
	if err := f.check(int(length) - headBytes); err != nil {
		return frame{}, err
	}
	f.payload, err = readPayload(r, int(length)-headBytes)
	return f, err
}

// check refuses what no kind of frame may look like.
func (f *frame) check(payloadBytes int) error {
	if f.kind == 0 || f.kind >= kindAfterLast {
		return fmt.Errorf("%w: unknown kind of frame %d", ErrProtocol, f.kind)
	}
	if f.method != 0 && f.kind != kindCall && f.kind != kindOpen {
		return fmt.Errorf("%w: method %d in a frame of kind %d", ErrProtocol, f.method, f.kind)
	}
	want := -1
	switch f.kind {
	case kindPing, kindPong:
		if f.id != 0 {
			return fmt.Errorf("%w: ping with id %d", ErrProtocol, f.id)
		}
		want = 0
	case kindEnd, kindCancel:
		want = 0
	case kindCreditUp, kindCreditDown:
		want = 4
	case kindFail:
		if payloadBytes < 4 {
			return fmt.Errorf("%w: error of %d bytes", ErrProtocol, payloadBytes)
		}
	}
	if want >= 0 && payloadBytes != want {
		return fmt.Errorf("%w: frame of kind %d with %d bytes", ErrProtocol, f.kind, payloadBytes)
	}
	return nil
}

func readPayload(r io.Reader, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	p := make([]byte, min(n, firstReadBytes))
	for have := 0; ; {
		if _, err := io.ReadFull(r, p[have:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(p) == n {
			return p, nil
		}
		have = len(p)
		grown := make([]byte, min(n, 4*have))
		copy(grown, p)
		p = grown
	}
}
