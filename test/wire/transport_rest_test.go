package wire_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "github.com/kahu-sh/kahu/localapi/kahuna/kahunapb"
)

// route is where a request goes: as an rpc, and over REST.
type route struct {
	rpc  string
	path string
	// answer makes the message that it is answered with.
	answer func() proto.Message
}

// paths are the REST routes by the names of their requests (RestCommunication).
var paths = map[string]string{
	"GrpcTryLockRequest": "locks/try-lock", "GrpcExtendLockRequest": "locks/try-extend", "GrpcUnlockRequest": "locks/try-unlock", "GrpcGetLockRequest": "locks/get-info",
	"GrpcTrySetKeyValueRequest": "kv/try-set", "GrpcTryExtendKeyValueRequest": "kv/try-extend", "GrpcTryDeleteKeyValueRequest": "kv/try-delete",
	"GrpcTryGetKeyValueRequest": "kv/try-get", "GrpcTryExistsKeyValueRequest": "kv/try-exists",
	"GrpcTrySetManyKeyValueRequest": "kv/try-set-many", "GrpcTryDeleteManyKeyValueRequest": "kv/try-delete-many",
	"GrpcTryGetManyValuesRequest": "kv/try-get-many", "GrpcTryExistsManyValuesRequest": "kv/try-exists-many",
	"GrpcGetByRangeRequest": "kv/get-by-range", "GrpcGetByBucketRequest": "kv/get-by-bucket", "GrpcScanAllByPrefixRequest": "kv/scan-all-by-prefix",
	"GrpcTryExecuteTransactionScriptRequest": "kv/try-execute-tx-script", "GrpcStartTransactionRequest": "kv/start-tx-session",
	"GrpcCommitTransactionRequest": "kv/commit-tx-session", "GrpcRollbackTransactionRequest": "kv/rollback-tx-session",
	"GrpcTryAcquireExclusiveLockRequest": "kv/try-acquire-exclusive-lock", "GrpcTryAcquireExclusivePrefixLockRequest": "kv/try-acquire-prefix-lock",
	"GrpcTryAcquireExclusiveRangeLockRequest": "kv/try-acquire-range-lock",
	"GrpcAcquireSnapshotHoldRequest":          "kv/snapshot-hold/acquire", "GrpcRenewSnapshotHoldRequest": "kv/snapshot-hold/renew",
	"GrpcReleaseSnapshotHoldRequest": "kv/snapshot-hold/release", "GrpcGetSnapshotFloorRequest": "kv/snapshot-floor",
	"GrpcCreateSequenceRequest": "sequences/create", "GrpcGetSequenceRequest": "sequences/get", "GrpcReserveSequenceRangeRequest": "sequences/reserve",
	"GrpcDeleteSequenceRequest": "sequences/delete", "GrpcNextSequenceRequest": "sequences/next",
}

// routeOf finds the rpc that takes a message. It panics for one that is no request.
func routeOf(req proto.Message) route {
	in := req.ProtoReflect().Descriptor()
	for _, service := range []string{"Locker", "KeyValuer", "Sequencer", "Cluster", "Backups"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			panic(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			if m.Input() != in || m.IsStreamingServer() {
				continue
			}
			out, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil {
				panic(err)
			}
			return route{rpc: "/" + service + "/" + string(m.Name()), path: paths[string(in.Name())],
				answer: func() proto.Message { return out.New().Interface() }}
		}
	}
	panic(fmt.Sprintf("no rpc takes a %s", in.Name()))
}

// overREST is RestCommunication: HTTP/2 where TLS agrees on it, and an Authorization
// that says nothing.
type overREST struct{ http *http.Client }

var (
	_          transport = (*overREST)(nil)
	sharedREST           = &overREST{&http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} // as the suite says
)

func (o *overREST) call(ctx context.Context, url string, req proto.Message) (proto.Message, error) {
	r := routeOf(req)
	method, body := http.MethodPost, []byte(nil)
	if _, is := req.(*pb.GrpcGetSnapshotFloorRequest); is {
		method = http.MethodGet
	} else {
		var err error
		if body, err = json.Marshal(toJSON(req.ProtoReflect())); err != nil {
			return nil, err
		}
	}
	httpReq, err := http.NewRequestWithContext(ctx, method, url+"/v1/"+r.path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	httpReq.Header.Set("Content-Type", "application/json")
	httpReq.Header.Set("Authorization", "Bearer xxx")
	res, err := o.http.Do(httpReq)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d: %s", r.path, res.StatusCode, text)
	}
	if res.ProtoMajor != 2 {
		return nil, fmt.Errorf("%s was answered in HTTP/%d", r.path, res.ProtoMajor)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var answer map[string]any
	if err := d.Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", r.path, err, text)
	}
	out := r.answer()
	if err := fromJSON(answer, out.ProtoReflect()); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", r.path, err, text)
	}
	return out, nil
}

// The JSON of REST is the message's in other clothes: names in camel case, enums as
// numbers, bytes in base64, and the three fields of a timestamp as {"n","l","c"}.
const (
	node, physical, counter = "Node", "Physical", "Counter"
	prefixLock              = "GrpcTryAcquireExclusivePrefixLockRequest" // whose PrefixKey is "key"
)

func camel(name string) string {
	r := []rune(name)
	r[0] = unicode.ToLower(r[0])
	return string(r)
}

// timestamp is the name of the timestamp that a field is the first part of.
func timestamp(f protoreflect.FieldDescriptor) (name string, ok bool) {
	name, ok = strings.CutSuffix(string(f.Name()), node)
	return name, ok && f.ContainingMessage().Fields().ByName(protoreflect.Name(name+physical)) != nil
}

func toJSON(m protoreflect.Message) map[string]any {
	out := map[string]any{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := string(f.Name())
		if stamp, ok := timestamp(f); ok {
			out[camel(stamp)] = map[string]any{"n": m.Get(f).Int(),
				"l": m.Get(fields.ByName(protoreflect.Name(stamp + physical))).Int(), "c": m.Get(fields.ByName(protoreflect.Name(stamp + counter))).Uint()}
			continue
		}
		if strings.HasSuffix(name, physical) || strings.HasSuffix(name, counter) {
			continue // told with the first part
		}
		key := camel(name)
		if string(m.Descriptor().Name()) == prefixLock && name == "PrefixKey" {
			key = "key"
		}
		switch {
		case f.IsList():
			list := []any{}
			for j := range m.Get(f).List().Len() {
				list = append(list, toJSON(m.Get(f).List().Get(j).Message()))
			}
			out[key] = list
		case f.HasPresence() && !m.Has(f) && f.Kind() != protoreflect.Uint64Kind: // numbers are 0 there
			out[key] = nil
		case f.Kind() == protoreflect.BytesKind:
			out[key] = base64.StdEncoding.EncodeToString(m.Get(f).Bytes())
		case f.Kind() == protoreflect.EnumKind:
			n := m.Get(f).Enum()
			if name == "Priority" {
				n = max(n-1, 0) // without the offset that it has in gRPC
			}
			out[key] = n
		default:
			out[key] = m.Get(f).Interface()
		}
	}
	return out
}

func fromJSON(in map[string]any, m protoreflect.Message) error {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if stamp, ok := timestamp(f); ok {
			parts, _ := in[camel(stamp)].(map[string]any)
			for part, key := range map[string]string{node: "n", physical: "l", counter: "c"} {
				if err := setField(m, fields.ByName(protoreflect.Name(stamp+part)), parts[key]); err != nil {
					return err
				}
			}
			continue
		}
		if err := setField(m, f, in[camel(string(f.Name()))]); err != nil {
			return err
		}
	}
	return nil
}

func setField(m protoreflect.Message, f protoreflect.FieldDescriptor, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		list := m.Mutable(f).List()
		for _, one := range v {
			object, ok := one.(map[string]any)
			if !ok {
				return fmt.Errorf("%s has the item %v", f.Name(), one)
			}
			item := list.NewElement()
			if err := fromJSON(object, item.Message()); err != nil {
				return err
			}
			list.Append(item)
		}
	case map[string]any:
		return fromJSON(v, m.Mutable(f).Message())
	case bool:
		m.Set(f, protoreflect.ValueOfBool(v))
	case string:
		if f.Kind() != protoreflect.BytesKind {
			m.Set(f, protoreflect.ValueOfString(v))
			return nil
		}
		b, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return fmt.Errorf("%s is %q: %w", f.Name(), v, err)
		}
		m.Set(f, protoreflect.ValueOfBytes(b))
	case json.Number:
		return setNumber(m, f, v)
	}
	return nil
}

func setNumber(m protoreflect.Message, f protoreflect.FieldDescriptor, v json.Number) error {
	if f.Kind() == protoreflect.Uint32Kind || f.Kind() == protoreflect.Uint64Kind {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		if f.Kind() == protoreflect.Uint32Kind {
			m.Set(f, protoreflect.ValueOfUint32(uint32(n)))
		} else {
			m.Set(f, protoreflect.ValueOfUint64(n))
		}
		return nil
	}
	n, err := v.Int64()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	switch f.Kind() {
	case protoreflect.EnumKind:
		m.Set(f, protoreflect.ValueOfEnum(protoreflect.EnumNumber(n)))
	case protoreflect.Int32Kind:
		m.Set(f, protoreflect.ValueOfInt32(int32(n)))
	case protoreflect.Int64Kind:
		m.Set(f, protoreflect.ValueOfInt64(n))
	default:
		return fmt.Errorf("%s is the number %s", f.Name(), v)
	}
	return nil
}
