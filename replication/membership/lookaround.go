package membership

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// lookAround says hello at every address that is due, and returns when all have
// answered or failed.
func (k *Keeper) lookAround() {
	addresses, told := k.due()
	tickets := make(chan struct{}, maxHellos)
	var asking sync.WaitGroup
	begun := time.Now()
	for _, address := range append(addresses, told...) {
		tickets <- struct{}{}
		if len(addresses) > 0 {
			addresses = addresses[1:]
		} else if time.Since(begun) >= helloTimeout {
			break // what others only tell of does not hold up what follows: it is due again
		}
		asking.Go(func() {
			k.sayHello(address)
			<-tickets
		})
	}
	asking.Wait()
	select {
	case <-k.looked:
	default:
		if k.ctx.Err() == nil {
			close(k.looked)
		}
	}
}

func (k *Keeper) sayHello(address string) {
	ctx, cancel := context.WithTimeout(k.ctx, helloTimeout)
	defer cancel()
	asked := time.Now()
	answer, id, err := k.network.HelloAt(ctx, address, k.hello())
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.publish()
	t := k.tries[address]
	if t == nil {
		t = &try{}
		k.tries[address] = t
	}
	if err != nil {
		if k.ctx.Err() != nil {
			return
		}
		if otherSecret(err) {
			k.strange = address
			k.sayOnce("secret "+address, slog.LevelWarn, "the agent at this address has another cluster secret: one of the two has the wrong secret file, or an old one, or only one has certificates of an own PKI and not tls-accept-secret, or its wall clock is one by which our certificate is not valid",
				"address", address, "key_ids", k.cfg.KeyIDs(), "error", err)
		} else if notAtThisTime(err) {
			k.undated = address
			k.sayOnce("date "+address, slog.LevelWarn, "by the wall clock of this host the certificate of the agent at this address is not valid: set the clock by NTP if it is wrong, else renew that certificate",
				"address", address, "error", err)
		} else if !t.failed {
			k.cfg.Logger.Debug("no agent answers at an address", "address", address, "error", err)
		} else {
			k.sayUnanswered(address, err)
		}
		t.why = whyNot(err)
		most := maxRetryRestless
		if k.state.Cluster != "" {
			most = maxRetrySettled
		}
		t.failed = true
		t.wait = min(max(2*t.wait, minRetry), most)
		t.retryAt = time.Now().Add(t.wait)
		return
	}
	if k.impostor(id, address) {
		*t = try{retryAt: time.Now().Add(maxRetrySettled)} // nobody whom we know
		return
	}
	*t = try{node: id.Node}
	if k.strange == address {
		k.strange = ""
	}
	if k.undated == address {
		k.undated = ""
		delete(k.said, "date "+address)
	}
	if id.Node == k.cfg.Node {
		// An address of our own; by tomorrow it may be another's.
		t.retryAt = time.Now().Add(maxRetrySettled)
		k.checkCopy(answer, address, asked)
		return
	}
	k.heard(id, answer, address)
	k.clear(voterOf(id))
}

// Alerts by which the other side says that it does not trust our certificate.
const (
	alertBadCertificate = tls.AlertError(42)
	alertUnknownCA      = tls.AlertError(48)
)

// otherSecret reports whether a connection failed since its two ends trust
// different authorities.
func otherSecret(err error) bool {
	var unknown x509.UnknownAuthorityError
	var alert tls.AlertError
	return errors.As(err, &unknown) || errors.As(err, &alert) && (alert == alertBadCertificate || alert == alertUnknownCA)
}
