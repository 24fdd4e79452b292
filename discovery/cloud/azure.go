package cloud

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// azure lists the addresses of network interfaces with a tag, by the managed
// identity of this machine, which needs Microsoft.Network/networkInterfaces/read.
func (q *Query) azure(ctx context.Context) ([]string, error) {
	own := map[string]string{"Metadata": "true"}
	subscription := q.args["subscription_id"]
	if subscription == "" {
		text, err := q.getText(ctx, "GET", q.env.Metadata+"/metadata/instance/compute/subscriptionId?api-version=2021-02-01&format=text", own)
		if err != nil {
			return nil, fmt.Errorf("the subscription of this machine: %w", err)
		}
		subscription = text
	}
	const resource = "https://management.azure.com/"
	var token struct {
		Access string `json:"access_token"`
	}
	if err := q.getJSON(ctx, q.env.Metadata+"/metadata/identity/oauth2/token?api-version=2018-02-01&resource="+url.QueryEscape(resource), own, &token); err != nil {
		return nil, fmt.Errorf("the token of this machine: %w", err)
	}
	header := map[string]string{"Authorization": "Bearer " + token.Access}
	api := q.env.api("https://management.azure.com")
	next := api + "/subscriptions/" + url.PathEscape(subscription)
	if group := q.args["resource_group"]; group != "" {
		next += "/resourceGroups/" + url.PathEscape(group)
	}
	next += "/providers/Microsoft.Network/networkInterfaces?api-version=2023-09-01"
	var hosts []string
	for range maxPages {
		var page struct {
			Next  string `json:"nextLink"`
			Value []struct {
				Tags       map[string]string `json:"tags"`
				Properties struct {
					IPs []struct {
						Properties struct {
							Private string `json:"privateIPAddress"`
						} `json:"properties"`
					} `json:"ipConfigurations"`
				} `json:"properties"`
			} `json:"value"`
		}
		if err := q.getJSON(ctx, next, header, &page); err != nil {
			return nil, err
		}
		for _, i := range page.Value {
			if i.Tags[q.args["tag_name"]] != q.args["tag_value"] {
				continue
			}
			for _, ip := range i.Properties.IPs {
				if ip.Properties.Private != "" {
					hosts = append(hosts, ip.Properties.Private)
				}
			}
		}
		if page.Next == "" {
			return hosts, nil
		}
		if !strings.HasPrefix(page.Next, api+"/") {
			return nil, fmt.Errorf("the list goes on at %.80q, which is not %s", page.Next, api)
		}
		next = page.Next
	}
	return hosts, nil
}
