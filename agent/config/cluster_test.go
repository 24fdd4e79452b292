package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/kahu-sh/kahu/agent/config"
)

func TestJoinTakesNamesAndClouds(t *testing.T) {
	got, err := config.Load(host(t), flags(t, "--bind", "10.0.0.1:7400", "--join", "10.0.0.2,host-c,[2001:db8::1],host-d:7000,provider=k8s label_selector=app=kahu",
		"--secret-file", write(t, "secret", "not read here"), "--zone", "eu-1", "--voters", "5", "--gossip", "wan"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"10.0.0.2:7400", "host-c:7400", "[2001:db8::1]:7400", "host-d:7000"}; !slices.Equal(got.Join, want) {
		t.Errorf("join is %q, want %q", got.Join, want)
	}
	if want := []string{"provider=k8s label_selector=app=kahu"}; !slices.Equal(got.JoinClouds, want) {
		t.Errorf("clouds are %q, want %q", got.JoinClouds, want)
	}
	if got.Zone != "eu-1" || got.Voters != 5 || got.Gossip != config.GossipWAN || got.BootstrapExpect != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestRefusedClusters(t *testing.T) {
	for args, says := range map[string]string{
		"--voters 4":                        "neither 3 nor 5",
		"--gossip fast":                     `"fast" is not lan, wan, local or off`,
		"--role king":                       `"king" is not auto, voter or proxy`,
		"--join provider=moon":              "k8s, aws, gce or azure",
		"--join provider=aws":               "needs tag_key",
		"--join 10.0.0.1:x":                 "no port between 1 and 65535",
		"--join a..b":                       "is not HOST:PORT",
		"--zone " + strings.Repeat("z", 60): "longer than 48 bytes",
	} {
		_, err := config.Load(host(t), flags(t, append(strings.Fields(args), "--secret-file", write(t, "secret", "not read here"))...))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", args, err, says)
		}
	}
}
