package cloud

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Where a pod finds its own identity.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// portAnnotation may name the port of a pod, by name or number. It is
// go-discover's, so that existing manifests work.
const portAnnotation = "consul.hashicorp.com/auto-join-port"

type podList struct {
	Metadata struct {
		Continue string `json:"continue"`
	} `json:"metadata"`
	Items []pod `json:"items"`
}

type pod struct {
	Metadata struct {
		Annotations       map[string]string `json:"annotations"`
		DeletionTimestamp string            `json:"deletionTimestamp"`
	} `json:"metadata"`
	Spec struct {
		Containers []struct {
			Ports []struct {
				Name          string `json:"name"`
				ContainerPort int    `json:"containerPort"`
				HostPort      int    `json:"hostPort"`
			} `json:"ports"`
		} `json:"containers"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIP  string `json:"podIP"`
		HostIP string `json:"hostIP"`
	} `json:"status"`
}

// k8s lists pods of a namespace (this pod's own, when none is named). Pods that
// are not ready count: agents are ready only once they have found each other.
func (q *Query) k8s(ctx context.Context) ([]string, error) {
	onHost := false
	if v := q.args["host_network"]; v != "" {
		var err error
		if onHost, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("host_network is %.20q, and must be true or false", v)
		}
	}
	token, err := q.env.ReadFile(serviceAccount + "token")
	if err != nil {
		return nil, fmt.Errorf("this is no pod with a service account: %w", err)
	}
	namespace := q.args["namespace"]
	if namespace == "" {
		own, err := q.env.ReadFile(serviceAccount + "namespace")
		if err != nil {
			return nil, fmt.Errorf("the namespace of this pod: %w", err)
		}
		namespace = strings.TrimSpace(string(own))
	}
	api, err := q.clusterAPI()
	if err != nil {
		return nil, err
	}
	header := map[string]string{"Authorization": "Bearer " + strings.TrimSpace(string(token)), "Accept": "application/json"}
	query := url.Values{"limit": {"500"}}
	for arg, parameter := range map[string]string{"label_selector": "labelSelector", "field_selector": "fieldSelector"} {
		if v := q.args[arg]; v != "" {
			query.Set(parameter, v)
		}
	}
	var hosts []string
	for range maxPages {
		var list podList
		if err := q.getJSON(ctx, api+"/api/v1/namespaces/"+url.PathEscape(namespace)+"/pods?"+query.Encode(), header, &list); err != nil {
			return nil, err
		}
		for _, p := range list.Items {
			if h := p.address(onHost); h != "" {
				hosts = append(hosts, h)
			}
		}
		if list.Metadata.Continue == "" {
			return hosts, nil
		}
		query.Set("continue", list.Metadata.Continue)
	}
	return hosts, nil
}

// clusterAPI finds the API server, and trusts the cluster's own authority.
func (q *Query) clusterAPI() (string, error) {
	if q.env.API != "" {
		return q.env.API, nil
	}
	host, port := q.env.Getenv("KUBERNETES_SERVICE_HOST"), q.env.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return "", errors.New("KUBERNETES_SERVICE_HOST and _PORT are not set: this is no pod")
	}
	ca, err := q.env.ReadFile(serviceAccount + "ca.crt")
	if err != nil {
		return "", fmt.Errorf("the cluster's authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return "", errors.New("the cluster's authority has no certificate in it")
	}
	q.env.Client = plainClient()
	t := q.env.Client.Transport.(*http.Transport)
	t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	t.Proxy = nil // it is in the cluster
	return "https://" + net.JoinHostPort(host, port), nil
}

// address is where a pod is, or empty while it has none.
func (p *pod) address(onHost bool) string {
	if p.Metadata.DeletionTimestamp != "" || p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" {
		return ""
	}
	ip := p.Status.PodIP
	if onHost {
		ip = p.Status.HostIP
	}
	if net.ParseIP(ip) == nil {
		return ""
	}
	named := p.Metadata.Annotations[portAnnotation]
	if named == "" {
		return ip
	}
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if n := port.ContainerPort; port.Name == named {
				if onHost {
					n = port.HostPort
				}
				if n > 0 {
					return net.JoinHostPort(ip, strconv.Itoa(n))
				}
			}
		}
	}
	if n, err := strconv.ParseUint(named, 10, 16); err == nil && n > 0 {
		return net.JoinHostPort(ip, strconv.FormatUint(n, 10))
	}
	return ""
}
