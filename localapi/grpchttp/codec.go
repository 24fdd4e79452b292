package grpchttp

import (
	"encoding/binary"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// headBytes stand before each message: one byte that says whether it is
// compressed, and its size in four, the highest first.
const headBytes = 5

func parseSize(head []byte) uint32 { return binary.BigEndian.Uint32(head[1:headBytes]) }

// The methods that protoc-gen-go-vtproto generates. They cost a third of what
// reflection does.
type (
	fastMarshaler interface {
		SizeVT() int
		MarshalToSizedBufferVT(b []byte) (int, error)
	}
	fastUnmarshaler   interface{ UnmarshalVT(b []byte) error }
	unsafeUnmarshaler interface{ UnmarshalVTUnsafe(b []byte) error }
)

// appendFramed appends m as a message with its head. b is unchanged on an error.
func appendFramed(b []byte, m any) ([]byte, error) {
	start := len(b)
	switch m := m.(type) {
	case fastMarshaler:
		size := m.SizeVT()
		b = grow(b, headBytes+size)
		n, err := m.MarshalToSizedBufferVT(b[start+headBytes:])
		if err != nil || n != size {
			return b[:start], fmt.Errorf("%T took %d of %d bytes: %w", m, n, size, err)
		}
	case proto.Message:
		b = grow(b, headBytes)
		var err error
		if b, err = (proto.MarshalOptions{}).MarshalAppend(b, m); err != nil {
			return b[:start], err
		}
	default:
		return b, fmt.Errorf("%T is no protobuf message", m)
	}
	b[start] = 0
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-headBytes))
	return b, nil
}

// grow makes b longer by n bytes of any content.
func grow(b []byte, n int) []byte {
	if len(b)+n <= cap(b) {
		return b[:len(b)+n]
	}
	return append(b, make([]byte, n)...)
}

// decode decodes b, which from then on belongs to m.
func decode(b []byte, m any) error {
	var err error
	switch m := m.(type) {
	case unsafeUnmarshaler:
		err = m.UnmarshalVTUnsafe(b)
	case fastUnmarshaler:
		err = m.UnmarshalVT(b)
	case proto.Message:
		err = proto.Unmarshal(b, m)
	default:
		return status.Errorf(codes.Internal, "%T is no protobuf message", m)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "the message cannot be decoded: %v", err)
	}
	return nil
}

// encodeMessage makes a status message fit for a header: gRPC's percent-encoding.
func encodeMessage(text string) string {
	plain := func(c byte) bool { return c >= ' ' && c <= '~' && c != '%' }
	text = strings.ToValidUTF8(text, "\uFFFD")
	i := 0
	for i < len(text) && plain(text[i]) {
		i++
	}
	if i == len(text) {
		return text
	}
	var out strings.Builder
	out.WriteString(text[:i])
	for ; i < len(text); i++ {
		if plain(text[i]) {
			out.WriteByte(text[i])
		} else {
			fmt.Fprintf(&out, "%%%02X", text[i])
		}
	}
	return out.String()
}
