package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/kahu-sh/kahu/replication"
)

// Config is what a Client needs. Fields without "optional" are required.
type Config struct {
	// Endpoints are the URLs of the cluster's servers (ParseEndpoint).
	Endpoints []string
	// TLS, optional, is how https servers are checked and who this agent says it is;
	// nil: the system's roots and nobody.
	TLS *tls.Config
	// Token, optional, is sent with every call to https servers. It is called often.
	Token func() (string, error)
	// LeaseNow is lease time (integrations/boottime.Now). It is called often,
	// concurrently, and never goes back.
	LeaseNow func() time.Duration
	Logger   *slog.Logger
	// Dial, optional, connects to HOST:PORT instead of TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Client implements replication.Coordinator over a Kahuna cluster. All methods may
// be called concurrently. Close ends it.
type Client struct {
	cfg      Config
	pool     *pool
	sessions *sessions
	ctx      context.Context // ends every goroutine below; cancelled by Close
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

var _ replication.Coordinator = (*Client)(nil)

// New makes a Client and begins to look which servers answer. It does not wait for
// any of them.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 || cfg.LeaseNow == nil || cfg.Logger == nil {
		return nil, errors.New("a client of a Kahuna cluster needs endpoints, a clock and a logger")
	}
	c := &Client{cfg: cfg, pool: &pool{}}
	for _, text := range cfg.Endpoints {
		e, err := dial(text, &cfg)
		if err != nil {
			_ = c.hangUp() // nothing was sent
			return nil, err
		}
		c.pool.list = append(c.pool.list, e)
	}
	c.pool.current = rand.N(len(c.pool.list)) // so that hosts spread over the servers
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.sessions = newSessions(c)
	c.wg.Go(func() { c.probe(c.ctx) })
	return c, nil
}

// Close ends what is under way and waits for it. Locks that hang from sessions stay
// as they are: they end by their leases, or the next agent takes them up.
func (c *Client) Close() error {
	c.sessions.close()
	c.wg.Wait()
	return c.hangUp()
}

func (c *Client) hangUp() error {
	var errs []error
	for _, e := range c.pool.list {
		errs = append(errs, e.conn.Close())
	}
	return errors.Join(errs...)
}

// Status lists the servers in the order configured.
func (c *Client) Status() []EndpointStatus { return c.pool.status() }

// Failovers is how often another server took the place of the one in use.
func (c *Client) Failovers() uint64 {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	return c.pool.failovers
}

// Ready reports whether a server has answered lately that a leader stands behind.
func (c *Client) Ready() bool { return c.pool.lately() }

// Adopt makes a session known that an agent before this one had, with everything
// that may hang from it. Its first renewal finds out what still does. It does not
// block.
func (c *Client) Adopt(id []byte, ttl time.Duration, holds []*replication.SessionHold) {
	c.sessions.adopt(id, ttl, holds)
}

// Do implements replication.Coordinator.
func (c *Client) Do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	if c.ctx.Err() != nil {
		return nil, replication.ErrStopped
	}
	a, err := c.do(ctx, req)
	var refused *replication.RefusedError
	if errors.As(err, &refused) {
		return &replication.Answer{Code: refused.Code, Detail: refused.Detail}, nil
	}
	return a, err
}

// Watch implements replication.Coordinator.
func (c *Client) Watch(ctx context.Context, session []byte, fn func(*replication.Event)) error {
	return c.sessions.watch(ctx, session, fn)
}

// do finds who carries a request out.
func (c *Client) do(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_SessionOpen:
		return c.sessions.open(op.SessionOpen)
	case *replication.Request_SessionRenew:
		return c.sessions.renew(ctx, op.SessionRenew)
	case *replication.Request_SessionClose:
		return c.sessions.end(ctx, op.SessionClose)
	case *replication.Request_SessionGet:
		return c.sessions.get(op.SessionGet)
	case *replication.Request_LockWait:
		return c.sessions.wait(ctx, op.LockWait)
	case *replication.Request_LockCancel:
		return c.sessions.unlock(ctx, lockKey{op.LockCancel.GetDurability(), op.LockCancel.GetName()}, op.LockCancel.GetOwner())
	case *replication.Request_LockUnlock:
		return c.sessions.unlock(ctx, lockKey{op.LockUnlock.GetDurability(), op.LockUnlock.GetName()}, op.LockUnlock.GetOwner())
	case *replication.Request_LockDetach:
		return c.sessions.detach(op.LockDetach)
	case *replication.Request_LockTry:
		return c.lockTry(ctx, op.LockTry)
	case *replication.Request_LockExtend:
		return c.lockExtend(ctx, op.LockExtend)
	case *replication.Request_LockBreak:
		return c.lockBreak(ctx, op.LockBreak)
	case *replication.Request_LockGet:
		return c.lockGet(ctx, op.LockGet)
	case *replication.Request_LockList:
		return nil, notHere("list locks; ask for one by its name, or see kahu status for those of this host")
	case *replication.Request_Write:
		return c.write(ctx, op.Write)
	case *replication.Request_Get:
		return c.get(ctx, op.Get)
	case *replication.Request_Range:
		return c.scan(ctx, op.Range)
	case *replication.Request_History:
		return c.history(ctx, op.History)
	case *replication.Request_Script:
		return c.script(ctx, op.Script)
	case *replication.Request_ScriptRead:
		return c.script(ctx, op.ScriptRead)
	case *replication.Request_MachineGet:
		return c.machineGet(ctx)
	}
	return c.doMore(ctx, req)
}

// doMore is do for sequences, transactions and snapshots.
func (c *Client) doMore(ctx context.Context, req *replication.Request) (*replication.Answer, error) {
	switch op := req.GetOp().(type) {
	case *replication.Request_SequenceCreate:
		return c.sequenceCreate(ctx, op.SequenceCreate)
	case *replication.Request_SequenceNext:
		return c.sequenceNext(ctx, op.SequenceNext)
	case *replication.Request_SequenceUpdate:
		return c.sequenceUpdate(ctx, op.SequenceUpdate)
	case *replication.Request_SequenceDelete:
		return c.sequenceDelete(ctx, op.SequenceDelete)
	case *replication.Request_SequenceGet:
		return c.sequenceGet(ctx, op.SequenceGet)
	case *replication.Request_SequenceList:
		return nil, notHere("list sequences; ask for one by its name")
	case *replication.Request_TxStart:
		return c.txStart(ctx, op.TxStart)
	case *replication.Request_TxLock:
		return c.txLock(ctx, op.TxLock)
	case *replication.Request_TxUnlock:
		return c.txUnlock(ctx, op.TxUnlock)
	case *replication.Request_TxRead:
		return c.txRead(ctx, op.TxRead)
	case *replication.Request_TxWrite:
		return c.txWrite(ctx, op.TxWrite)
	case *replication.Request_TxEnd:
		return c.txEnd(ctx, op.TxEnd)
	case *replication.Request_TxList:
		return nil, notHere("list transactions")
	case *replication.Request_SnapshotHoldAcquire:
		return c.snapshotAcquire(ctx, op.SnapshotHoldAcquire)
	case *replication.Request_SnapshotHoldRenew:
		return c.snapshotRenew(ctx, op.SnapshotHoldRenew)
	case *replication.Request_SnapshotHoldRelease:
		return c.snapshotRelease(ctx, op.SnapshotHoldRelease)
	case *replication.Request_SnapshotFloorGet:
		return c.snapshotFloor(ctx)
	case *replication.Request_KeySpaceSet:
		return c.keySpaceSet(ctx, op.KeySpaceSet)
	case *replication.Request_KeySpaceList:
		return c.keySpaceList(ctx, op.KeySpaceList)
	}
	return nil, notHere(fmt.Sprintf("carry out %T", req.GetOp()))
}
