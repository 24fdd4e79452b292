// Package containers checks what integrations/kubernetes carries: each overlay is
// built by kustomize and decoded strictly with the Kubernetes API types, and the
// sidecar pair runs for real, two containers of the image under runc that share
// no more than the socket's directory.
//
// It is a module of its own, so that nobody who imports kahu gets Kubernetes.
// `make containers` runs it; the pair needs root, runc and buildah.
package containers
