package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kahu-sh/kahu/replication/voter"
)

// voterGauges are the metrics of a voter, in one table. All are read from one
// Status when they are asked for.
var voterGauges = []voterGauge{
	gauge("kahu_raft_leader", "1 on the voter that leads and serves.", func(s voter.Status) float64 { return truth(s.Serving) }),
	gauge("kahu_raft_term", "Raft's current term.", func(s voter.Status) float64 { return float64(s.Term) }),
	gauge("kahu_raft_commit_index", "Highest log index known to be committed.", func(s voter.Status) float64 { return float64(s.CommitIndex) }),
	gauge("kahu_raft_applied_index", "Highest log index that the state machine has applied.", func(s voter.Status) float64 { return float64(s.AppliedIndex) }),
	gauge("kahu_raft_last_index", "Highest index in this voter's log.", func(s voter.Status) float64 { return float64(s.LastIndex) }),
	gauge("kahu_raft_log_bytes", "Size of the entries in this voter's log.", func(s voter.Status) float64 { return float64(s.LogBytes) }),
	gauge("kahu_raft_servers", "Servers in the Raft configuration.", func(s voter.Status) float64 { return float64(len(s.Peers)) }),
	gauge("kahu_raft_last_contact_seconds", "Time since a leader was heard; 0 on the leader, -1 when never.", func(s voter.Status) float64 {
		if s.LastContact < 0 {
			return -1
		}
		return s.LastContact.Seconds()
	}),
	gauge("kahu_storage_durable_index", "Highest log index that the engine has on disk.", func(s voter.Status) float64 { return float64(s.DurableIndex) }),
	gauge("kahu_storage_unflushed_bytes", "Changes applied and not yet in the engine.", func(s voter.Status) float64 { return float64(s.UnflushedBytes) }),
	gauge("kahu_proposer_queued_requests", "Requests that wait to be proposed.", func(s voter.Status) float64 { return float64(s.QueuedRequests) }),
	gauge("kahu_voter_stalled_seconds", "Age of a log write, flush or apply that hangs; 0 when healthy.", func(s voter.Status) float64 { return s.StalledFor.Seconds() }),
	gauge("kahu_wall_clock_trusted", "0 on a leader whose times do not follow its wall clock: see kahu status there.", func(s voter.Status) float64 { return truth(s.WallClock.Problem == "") }),
	gauge("kahu_wall_clock_ahead_seconds", "How far the leader's wall clock is ahead of the times that it gives out; 0 while they follow it.", func(s voter.Status) float64 {
		return s.WallClock.Offset.Seconds()
	}),
	gauge("kahu_lease_clock_seconds", "The replicated lease clock as of the last applied entry.", func(s voter.Status) float64 {
		return time.Duration(s.LeaseClockNS).Seconds()
	}),
	counter("kahu_raft_snapshots_installed_total", "Snapshots that this voter received since it started.", func(s voter.Status) float64 { return float64(s.Restores) }),
}

var infoDesc = prometheus.NewDesc("kahu_agent_info", "Always 1; the labels say what runs.", []string{"version", "role", "storage"}, nil)

var readyDesc = prometheus.NewDesc("kahu_agent_ready", "1 while a quorum answers this agent, as the readiness route says.", nil, nil)

var gossipDesc = prometheus.NewDesc("kahu_gossip_members", "Agents that gossip knows, this one included. No lease depends on it.", []string{"state"}, nil)

var detourDesc = prometheus.NewDesc("kahu_leader_detour", "1 while this agent does not reach the leader, and another voter passes its requests on.", nil, nil)

// voterGauge is one row of voterGauges.
type voterGauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(voter.Status) float64
}

func gauge(name, help string, value func(voter.Status) float64) voterGauge {
	return voterGauge{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(voter.Status) float64) voterGauge {
	return voterGauge{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, value}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collector shows an agent to Prometheus.
type collector struct{ a *agent }

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- infoDesc
	ch <- readyDesc
	ch <- gossipDesc
	ch <- detourDesc
	ch <- expiryDesc
	ch <- issuedDesc
	ch <- listsDueDesc
	ch <- upstreamHealthy
	ch <- upstreamInUse
	ch <- upstreamFailovers
	for _, g := range voterGauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	if c.a.upstream != nil {
		ch <- prometheus.MustNewConstMetric(infoDesc, prometheus.GaugeValue, 1, c.a.o.Version, roleUpstream, "")
		ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, truth(c.a.upstream.Ready()))
		c.collectUpstream(ch)
		return
	}
	storage := ""
	if c.a.quorum.voter != nil {
		storage = string(c.a.cfg.Storage)
	}
	ch <- prometheus.MustNewConstMetric(infoDesc, prometheus.GaugeValue, 1, c.a.o.Version, c.a.quorum.role(), storage)
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, truth(c.a.status().Ready))
	alive, silent := c.a.quorum.gossip.count()
	ch <- prometheus.MustNewConstMetric(gossipDesc, prometheus.GaugeValue, float64(alive), "alive")
	ch <- prometheus.MustNewConstMetric(gossipDesc, prometheus.GaugeValue, float64(silent), "silent")
	ch <- prometheus.MustNewConstMetric(detourDesc, prometheus.GaugeValue, truth(c.a.forward.Detour() != ""))
	c.a.collectCertificate(ch)
	if c.a.quorum.voter == nil {
		return
	}
	s := c.a.quorum.voter.Status()
	for _, g := range voterGauges {
		ch <- prometheus.MustNewConstMetric(g.desc, g.kind, g.value(s))
	}
}
