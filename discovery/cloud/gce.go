package cloud

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
)

// gce lists running instances of a project with a network tag, as
// hashicorp/go-discover does, by the identity of this instance.
func (q *Query) gce(ctx context.Context) ([]string, error) {
	metadata := q.env.Metadata + "/computeMetadata/v1/"
	flavor := map[string]string{"Metadata-Flavor": "Google"}
	project := q.args["project_name"]
	if project == "" {
		text, err := q.getText(ctx, http.MethodGet, metadata+"project/project-id", flavor)
		if err != nil {
			return nil, fmt.Errorf("the project of this instance: %w", err)
		}
		project = text
	}
	zones, err := regexp.Compile(q.args["zone_pattern"])
	if err != nil {
		return nil, fmt.Errorf("zone_pattern: %w", err)
	}
	var token struct {
		Access string `json:"access_token"`
	}
	if err := q.getJSON(ctx, metadata+"instance/service-accounts/default/token", flavor, &token); err != nil {
		return nil, fmt.Errorf("the token of this instance: %w", err)
	}
	header := map[string]string{"Authorization": "Bearer " + token.Access}
	api := q.env.api("https://compute.googleapis.com") + "/compute/v1/projects/" + url.PathEscape(project) + "/aggregated/instances?"
	query := url.Values{"filter": {"status = RUNNING"}}
	var hosts []string
	for range maxPages {
		var page struct {
			Next  string `json:"nextPageToken"`
			Items map[string]struct {
				Instances []struct {
					Zone string `json:"zone"`
					Tags struct {
						Items []string `json:"items"`
					} `json:"tags"`
					Interfaces []struct {
						IP string `json:"networkIP"`
					} `json:"networkInterfaces"`
				} `json:"instances"`
			} `json:"items"`
		}
		if err := q.getJSON(ctx, api+query.Encode(), header, &page); err != nil {
			return nil, err
		}
		for _, zone := range page.Items {
			for _, i := range zone.Instances {
				if slices.Contains(i.Tags.Items, q.args["tag_value"]) && zones.MatchString(path.Base(i.Zone)) && len(i.Interfaces) > 0 && i.Interfaces[0].IP != "" {
					hosts = append(hosts, i.Interfaces[0].IP)
				}
			}
		}
		if page.Next == "" {
			return hosts, nil
		}
		query.Set("pageToken", page.Next)
	}
	return hosts, nil
}

// getText reads a short text, as metadata services give.
func (q *Query) getText(ctx context.Context, method, url string, header map[string]string) (string, error) {
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		return "", err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	body, err := q.fetch(ctx, r)
	return string(body[:min(len(body), 4096)]), err
}
