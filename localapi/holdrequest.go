package localapi

import (
	"context"
	"encoding/hex"
	"errors"
	"os"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
)

// holdRequest judges and translates what a caller asked for.
func (s *Server) holdRequest(who *caller.Caller, in *wire.HoldRequest) (HoldRequest, error) {
	var out HoldRequest
	if err := (admission{s, who}).named(policy.Lock, "lock name", in.Lock); err != nil {
		return out, err
	}
	out = HoldRequest{Lock: in.Lock, TTL: wire.DefaultHoldTTL, Witness: in.Witness, TreeEnds: in.TreeEnds, LastEndsTree: in.LastEnds, NeedAck: in.NeedAck, Resume: in.Resume,
		Info: s.holderInfo(who, in.Command, in.Reason)}
	out.Info.Contain = wire.Text(in.Contain)
	d, err := wire.ParseDurability(string(in.Durability))
	out.Durability = d.Replicated()
	if err == nil && in.TTL != "" {
		out.TTL, err = wire.ParseTTL(in.TTL)
	}
	if err == nil && in.Wait != "" {
		out.Wait, err = wire.ParseWait(in.Wait)
	}
	if err == nil && in.Grace != "" {
		out.Grace, err = wire.ParseGrace(in.Grace)
	}
	if err != nil {
		return out, invalid(err)
	}
	switch in.Witness {
	case "":
		out.Witness = WitnessConnection
	case WitnessConnection, WitnessProcess:
	default:
		return out, invalidf("the witness %.40q must be %s or %s", in.Witness, WitnessConnection, WitnessProcess)
	}
	if out.TreeEnds && out.Witness != WitnessProcess {
		return out, invalidf("tree_ends is for the witness %s", WitnessProcess)
	}
	if out.LastEndsTree && out.Witness != WitnessProcess {
		return out, invalidf("last_ends_tree is for the witness %s", WitnessProcess)
	}
	return out, nil
}

// openHold opens or attaches, for a request on the stream; conn has the pidfds
// that came with it.
func (s *Server) openHold(ctx context.Context, conn *caller.Conn, in *wire.HoldRequest) (Hold, error) {
	who := conn.Caller()
	if s.closing.Load() {
		return nil, wire.Refuse(wire.Stopping, "")
	}
	if in.Attach != "" {
		return s.attachHold(ctx, conn, in)
	}
	req, err := s.holdRequest(who, in)
	if err != nil {
		return nil, err
	}
	if req.Witness == WitnessProcess {
		if req.Pidfds, err = takePidfds(conn); err != nil {
			return nil, err
		}
	}
	return s.cfg.Holder.Open(ctx, req)
}

// attachHold takes up a hold again, for a request on the stream.
func (s *Server) attachHold(ctx context.Context, conn *caller.Conn, in *wire.HoldRequest) (Hold, error) {
	if _, err := s.ownedHold(conn.Caller(), in); err != nil {
		return nil, err
	}
	pidfds, err := passedPidfds(conn)
	if err != nil {
		return nil, err
	}
	return s.cfg.Holder.Attach(ctx, in.Attach, pidfds)
}

// ownedHold finds the hold that a caller takes up again. Its id is a secret of its
// user; that it is the same user is asked for nevertheless.
func (s *Server) ownedHold(who *caller.Caller, in *wire.HoldRequest) (HoldInfo, error) {
	if *in != (wire.HoldRequest{Attach: in.Attach}) {
		return HoldInfo{}, invalidf("attach stands alone")
	}
	if b, err := hex.DecodeString(in.Attach); err != nil || len(b) != 16 {
		return HoldInfo{}, invalidf("the hold id must be 32 hexadecimal digits")
	}
	if h, ok := s.cfg.Holder.Find(in.Attach); ok && s.ownHold(who, h) {
		return h, (admission{s, who}).need(policy.Lock, h.Lock)
	}
	return HoldInfo{}, wire.Refuse(wire.NotFound, "this agent has no such hold of yours")
}

// takePidfds claims what came with the connection's first bytes.
func takePidfds(conn *caller.Conn) ([]*os.File, error) {
	files, err := passedPidfds(conn)
	if err == nil && len(files) == 0 {
		err = invalidf("a hold with the witness process comes with pidfds (SCM_RIGHTS) in the upgrade request")
	}
	return files, err
}

// passedPidfds is takePidfds without the demand that there are any. Behind the
// pidfds there may be the two files of a control group (HoldRequest.Pidfds).
func passedPidfds(conn *caller.Conn) ([]*os.File, error) {
	files, err := conn.TakeFiles()
	pidfds := files
	if n := len(files) - 2; n > 0 && caller.GroupFile(files[n]) == caller.GroupKill && caller.GroupFile(files[n+1]) == caller.GroupEvents {
		pidfds = files[:n]
	}
	for _, f := range pidfds {
		if err == nil && !caller.IsPidfd(f) {
			err = errors.New("a file descriptor was passed that is not a pidfd")
		}
	}
	if err != nil {
		for _, f := range files {
			_ = f.Close() // it is being refused
		}
		return nil, invalid(err)
	}
	return files, nil
}

// holdError says what an error of the Holder is to the caller: bad input, unless
// it says otherwise.
func holdError(err error) *wire.Error {
	if e := wire.ErrorOf(err); e.Kind != wire.Internal {
		return e
	}
	return wire.Refuse(wire.Invalid, err.Error())
}
