package localapi

import (
	"context"
	"fmt"
	"time"

	"github.com/kahu-sh/kahu/localapi/caller"
	"github.com/kahu-sh/kahu/localapi/policy"
	"github.com/kahu-sh/kahu/localapi/wire"
	"github.com/kahu-sh/kahu/replication"
)

// do is the one way to the quorum: judge, stamp, ask, and leave out of the
// answer what the caller may not see. timeout 0 means the configured one. op
// names the operation for metrics and logs.
func (s *Server) do(ctx context.Context, who *caller.Caller, req *replication.Request, timeout time.Duration) (op string, a *replication.Answer, err error) {
	if s.closing.Load() {
		return opUnknown, nil, replication.ErrStopped
	}
	op, err = admission{s, who}.admit(req)
	if err != nil {
		return op, nil, err
	}
	if n := req.SizeVT(); n > replication.MaxRequestBytes {
		return op, nil, wire.Refuse(wire.TooLarge, fmt.Sprintf("the request has %d bytes, and the limit is %d", n, replication.MaxRequestBytes))
	}
	if try, ok := req.GetOp().(*replication.Request_LockTry); ok {
		try.LockTry.Info = s.holderInfo(who, try.LockTry.GetInfo().GetCommand(), try.LockTry.GetInfo().GetReason())
	}
	if brk, ok := req.GetOp().(*replication.Request_LockBreak); ok {
		brk.LockBreak.Reason = wire.Text(brk.LockBreak.GetReason())
	}
	if _, bounded := ctx.Deadline(); !bounded { // the stream has done it (upgraded.timeout)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.limit(timeout))
		defer cancel()
	}
	a, err = s.cfg.Coordinator.Do(ctx, req)
	if err != nil {
		return op, nil, err
	}
	return op, s.redact(who, a), nil
}

// limit is how long a request may take whose caller asked for timeout.
func (s *Server) limit(timeout time.Duration) time.Duration {
	if timeout <= 0 {
		timeout = s.cfg.RequestTimeout
	}
	return min(timeout, MaxRequestTimeout)
}

// holderInfo describes a holder: who it is comes from the kernel, what it says
// about itself is only cut to size.
func (s *Server) holderInfo(who *caller.Caller, command, reason string) *replication.HolderInfo {
	if command == "" {
		command = who.Command
	}
	return &replication.HolderInfo{Host: s.cfg.Host, Node: s.cfg.Node, Pid: int64(who.PID), Uid: int64(who.UID),
		Command: wire.Text(command), Reason: wire.Text(reason)}
}

// redact leaves owners out for all but administrators: who knows an owner may
// unlock; and what a transaction can be used with, for everybody. The answer may
// be shared, so it is not changed.
func (s *Server) redact(who *caller.Caller, a *replication.Answer) *replication.Answer {
	switch result := a.GetResult().(type) {
	case *replication.Answer_Lock:
		lock := s.redactLock(who, result.Lock)
		if lock == result.Lock {
			return a
		}
		return &replication.Answer{Code: a.Code, Detail: a.Detail, Index: a.Index, Time: a.Time, AgeMs: a.AgeMs,
			Result: &replication.Answer_Lock{Lock: lock}}
	case *replication.Answer_Transactions:
		return &replication.Answer{Code: a.Code, Detail: a.Detail, Index: a.Index, Time: a.Time, AgeMs: a.AgeMs,
			Result: &replication.Answer_Transactions{Transactions: withoutCoordinators(result.Transactions)}}
	case *replication.Answer_Locks:
		locks := make([]*replication.Lock, len(result.Locks.GetLocks()))
		for i, l := range result.Locks.GetLocks() {
			locks[i] = s.redactLock(who, l)
		}
		return &replication.Answer{Code: a.Code, Detail: a.Detail, Index: a.Index, Time: a.Time, AgeMs: a.AgeMs,
			Result: &replication.Answer_Locks{Locks: &replication.Locks{Locks: locks, More: result.Locks.GetMore()}}}
	}
	return a
}

func (s *Server) redactLock(who *caller.Caller, l *replication.Lock) *replication.Lock {
	if l == nil || s.cfg.Policy.Allows(who, policy.Admin, l.GetName()) {
		return l
	}
	out := &replication.Lock{Durability: l.Durability, Name: l.Name, Token: l.Token, RemainingMs: l.RemainingMs,
		Info: l.Info, QueueLength: l.QueueLength}
	if len(l.Session) > 0 {
		out.Session = hiddenSession // that it hangs from one is no secret
	}
	for _, w := range l.Queue {
		out.Queue = append(out.Queue, &replication.Waiter{Info: w.GetInfo()})
	}
	return out
}

var hiddenSession = make([]byte, replication.SessionIDBytes)
