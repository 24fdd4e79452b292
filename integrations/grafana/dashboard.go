// Package grafana carries what makes kahu visible: Prometheus alert rules
// (alerts.yml) and a Grafana dashboard (dashboard.json), which Dashboard makes.
//
// The dashboard is made by code, so that its panels are listed in a page and not
// in a thousand lines of JSON; a test keeps the file the same, and checks each
// expression against the metrics of a running agent.
package grafana

import "encoding/json"

//go:generate go run ./internal/write dashboard.json

// panel is one graph.
type panel struct {
	title, unit, about string
	queries            []query
	width              int // of 24
}

type query struct{ expr, legend string }

// rows are the dashboard: what is asked first stands first.
var rows = []struct {
	title  string
	panels []panel
}{
	{"Is anything wrong", []panel{
		{"Agents ready", "short", "Agents that reach a quorum, of all that answer.", []query{{`sum(kahu_agent_ready{job=~"$job"})`, "ready"}, {`count(kahu_agent_ready{job=~"$job"})`, "agents"}}, 6},
		{"Leader", "short", "1 for the voter that leads.", []query{{`kahu_raft_leader{job=~"$job"} == 1`, "{{instance}}"}}, 6},
		{"Holds at risk", "short", "Locks whose lease could not be renewed lately.", []query{{`kahu_holds{job=~"$job",state="at-risk"}`, "{{instance}}"}}, 6},
		{"Voter stalled", "s", "How long a log write, flush or apply has been hanging.", []query{{`kahu_voter_stalled_seconds{job=~"$job"}`, "{{instance}}"}}, 6},
	}},
	{"Locks and sessions", []panel{
		{"Holds", "short", "By state, over all hosts.", []query{{`sum by (state) (kahu_holds{job=~"$job"})`, "{{state}}"}}, 8},
		{"Deadlines reached", "short", "Holds that ended because no renewal came through.", []query{{`increase(kahu_holds_deadline_total{job=~"$job"}[$__rate_interval])`, "{{instance}}"}}, 8},
		{"Renewal latency, p99", "s", "Of a session's renewal, all holds of a host in one.", []query{{`histogram_quantile(0.99, sum by (le, instance) (rate(kahu_session_renew_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "{{instance}}"}}, 8},
	}},
	{"Requests", []panel{
		{"Requests", "reqps", "On the local sockets, by what was asked.", []query{{`sum by (route) (rate(kahu_localapi_requests_total{job=~"$job"}[$__rate_interval]))`, "{{route}}"}}, 8},
		{"Latency, p99", "s", "By what was asked.", []query{{`histogram_quantile(0.99, sum by (le, route) (rate(kahu_localapi_request_duration_seconds_bucket{job=~"$job"}[$__rate_interval])))`, "{{route}}"}}, 8},
		{"Refused and failed", "reqps", "By answer.", []query{{`sum by (code) (rate(kahu_localapi_requests_total{job=~"$job",code!="ok"}[$__rate_interval]))`, "{{code}}"}}, 8},
	}},
	{"Quorum", []panel{
		{"Entries applied", "ops", "A second, by voter.", []query{{`rate(kahu_raft_applied_index{job=~"$job"}[$__rate_interval])`, "{{instance}}"}}, 6},
		{"Behind the first", "short", "Entries that a voter has not applied yet.", []query{{`scalar(max(kahu_raft_applied_index{job=~"$job"})) - kahu_raft_applied_index{job=~"$job"}`, "{{instance}}"}}, 6},
		{"Term", "short", "Rises with each election.", []query{{`kahu_raft_term{job=~"$job"}`, "{{instance}}"}}, 6},
		{"Queued requests", "short", "Waiting for an entry of the log.", []query{{`kahu_proposer_queued_requests{job=~"$job"}`, "{{instance}}"}}, 6},
	}},
	{"Hosts", []panel{
		{"Memory", "bytes", "Resident, of the agent.", []query{{`process_resident_memory_bytes{job=~"$job"}`, "{{instance}}"}}, 6},
		{"CPU", "percentunit", "Of one core.", []query{{`rate(process_cpu_seconds_total{job=~"$job"}[$__rate_interval])`, "{{instance}}"}}, 6},
		{"Log on disk", "bytes", "Kept for voters that fall behind.", []query{{`kahu_raft_log_bytes{job=~"$job"}`, "{{instance}}"}}, 6},
		{"Not in the engine yet", "bytes", "Applied and in the log, to be written to the engine.", []query{{`kahu_storage_unflushed_bytes{job=~"$job"}`, "{{instance}}"}}, 6},
	}},
	{"Certificates of an own PKI", []panel{
		{"Time until it expires", "s", "Of the certificate that an agent shows to others. Empty without one: derived certificates do not.", []query{{`kahu_tls_certificate_expiry_timestamp_seconds{job=~"$job"} - time()`, "{{instance}}"}}, 24},
	}},
}

// Expressions returns every query of the dashboard, for checks.
func Expressions() (out []string) {
	for _, r := range rows {
		for _, p := range r.panels {
			for _, q := range p.queries {
				out = append(out, q.expr)
			}
		}
	}
	return out
}

// Dashboard returns dashboard.json.
func Dashboard() ([]byte, error) {
	type object = map[string]any
	source := object{"type": "prometheus", "uid": "${datasource}"}
	var panels []object
	id, y := 0, 0
	next := func() int { id++; return id }
	for _, r := range rows {
		panels = append(panels, object{"id": next(), "type": "row", "title": r.title, "collapsed": false,
			"gridPos": object{"h": 1, "w": 24, "x": 0, "y": y}, "panels": []object{}})
		y++
		x := 0
		for _, p := range r.panels {
			var targets []object
			for i, q := range p.queries {
				targets = append(targets, object{"datasource": source, "expr": q.expr, "legendFormat": q.legend, "refId": string(rune('A' + i))})
			}
			panels = append(panels, object{"id": next(), "type": "timeseries", "title": p.title, "description": p.about,
				"datasource": source, "targets": targets,
				"gridPos":     object{"h": 7, "w": p.width, "x": x, "y": y},
				"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0}, "overrides": []object{}},
				"options":     object{"legend": object{"displayMode": "list", "placement": "bottom"}, "tooltip": object{"mode": "multi"}},
			})
			x += p.width
		}
		y += 7
	}
	return json.MarshalIndent(object{
		"uid": "kahu", "title": "kahu", "tags": []string{"kahu"}, "schemaVersion": 39, "editable": true,
		"refresh": "10s", "time": object{"from": "now-1h", "to": "now"}, "panels": panels,
		"templating": object{"list": []object{
			{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
			{"name": "job", "type": "query", "label": "Job", "datasource": source, "includeAll": true, "multi": true, "refresh": 2,
				"query": object{"query": "label_values(kahu_agent_info, job)", "refId": "job"}, "current": object{"text": "All", "value": "$__all"}},
		}},
	}, "", "  ")
}
