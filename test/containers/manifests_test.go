package containers

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const manifests = "../../integrations/kubernetes/"

// kinds are the types that the manifests may have.
var kinds = map[string]func() any{
	"StatefulSet":         func() any { return new(appsv1.StatefulSet) },
	"DaemonSet":           func() any { return new(appsv1.DaemonSet) },
	"Deployment":          func() any { return new(appsv1.Deployment) },
	"Service":             func() any { return new(corev1.Service) },
	"ConfigMap":           func() any { return new(corev1.ConfigMap) },
	"PodDisruptionBudget": func() any { return new(policyv1.PodDisruptionBudget) },
	"NetworkPolicy":       func() any { return new(networkingv1.NetworkPolicy) },
}

// build renders an overlay and decodes every object; a field that its type does
// not have is an error.
func build(t *testing.T, overlay string) map[string]any {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	made, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), manifests+overlay)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", overlay, err)
	}
	objects := make(map[string]any)
	for _, r := range made.Resources() {
		kind := r.GetKind()
		object, known := kinds[kind]
		if !known {
			t.Fatalf("%s: there is no check for kind %s", overlay, kind)
		}
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o := object()
		if err := yaml.UnmarshalStrict(text, o); err != nil {
			t.Errorf("%s: %s %s: %v", overlay, kind, r.GetName(), err)
		}
		objects[kind+" "+r.GetName()] = o
	}
	return objects
}

func TestManifestsDecodeStrictly(t *testing.T) {
	for overlay, want := range map[string][]string{
		"base":      {"StatefulSet kahu-voter", "Service kahu-voters", "PodDisruptionBudget kahu-voter", "NetworkPolicy kahu-voter"},
		"daemonset": {"StatefulSet kahu-voter", "DaemonSet kahu-agent"},
		"sidecar":   {"StatefulSet kahu-voter", "Deployment invoices"},
		"single":    {"StatefulSet kahu-voter"},
	} {
		t.Run(overlay, func(t *testing.T) {
			objects := build(t, overlay)
			for _, name := range want {
				if objects[name] == nil {
					t.Errorf("there is no %s", name)
				}
			}
			for name, o := range objects {
				spec := podOf(o)
				if spec == nil {
					continue
				}
				for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
					checkContainer(t, name, spec, c)
				}
			}
		})
	}
}

func podOf(o any) *corev1.PodSpec {
	switch o := o.(type) {
	case *appsv1.StatefulSet:
		return &o.Spec.Template.Spec
	case *appsv1.DaemonSet:
		return &o.Spec.Template.Spec
	case *appsv1.Deployment:
		return &o.Spec.Template.Spec
	}
	return nil
}

// checkContainer holds every container to least privilege, and every mount to a
// volume.
func checkContainer(t *testing.T, of string, pod *corev1.PodSpec, c corev1.Container) {
	s := c.SecurityContext
	switch {
	case s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation:
		t.Errorf("%s: container %s may gain privileges", of, c.Name)
	case s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem:
		t.Errorf("%s: container %s may write to its image", of, c.Name)
	case s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL"):
		t.Errorf("%s: container %s keeps capabilities", of, c.Name)
	}
	for _, m := range c.VolumeMounts {
		known := slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if !known && m.Name != "data" { // a claim template's
			t.Errorf("%s: container %s mounts %s, which is no volume", of, c.Name, m.Name)
		}
	}
	if strings.Contains(c.Image, "kahu") && c.Name != "app" && !strings.HasSuffix(c.Image, "/kahu:latest") {
		t.Errorf("%s: container %s has the image %s, which the kustomization did not replace", of, c.Name, c.Image)
	}
}

// What the patch of the single voter points at by number is what it means.
func TestSingleIsOneVoter(t *testing.T) {
	set := build(t, "single")["StatefulSet kahu-voter"].(*appsv1.StatefulSet)
	env := fmt.Sprint(set.Spec.Template.Spec.Containers[0].Env)
	if *set.Spec.Replicas != 1 || !strings.Contains(env, "KAHU_BOOTSTRAP_EXPECT 1") {
		t.Errorf("%d replicas with %s", *set.Spec.Replicas, env)
	}
}
