package lockclient

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

func (c Config) validateHTTP() error {
	if c.Endpoint == "" {
		return errors.New("lockclient: Config.Endpoint is empty; give the coordinator's URL, or a Transport")
	}
	if !strings.Contains(c.Endpoint, "://") {
		return fmt.Errorf("lockclient: Config.Endpoint is %q, without a scheme; give a URL: %s", c.Endpoint, withScheme(c.Endpoint))
	}
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || !validPort(u.Port()):
		return fmt.Errorf("lockclient: Config.Endpoint is %q; give a URL like https://ID.execute-api.REGION.amazonaws.com or http://127.0.0.1:7420", c.Endpoint)
	case u.User != nil:
		return errors.New("lockclient: Config.Endpoint has a user name or password in it; requests are signed with Config.Credentials instead")
	case u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1/locks"):
		return fmt.Errorf("lockclient: Config.Endpoint is %q; give the URL only up to where /v1/locks begins", c.Endpoint)
	}
	region, gateway := gatewayRegion(u.Hostname())
	switch {
	case gateway && u.Scheme == "http":
		return fmt.Errorf("lockclient: Config.Endpoint is %q; API Gateway is reached over https only", c.Endpoint)
	case gateway && c.Credentials == nil:
		return fmt.Errorf("lockclient: Config.Credentials is nil, and %s takes signed requests only; give EnvCredentials{} in a Lambda function, or the AWS SDK's", u.Host)
	case gateway && c.Region != "" && c.Region != region:
		return fmt.Errorf("lockclient: Config.Region is %q, but the endpoint is in %q; leave Region empty", c.Region, region)
	case !gateway && c.Credentials != nil && c.Region == "":
		return errors.New("lockclient: Config.Region is empty; requests are signed for a region")
	}
	return nil
}

// withScheme returns the URL that an endpoint without a scheme most likely stands for.
func withScheme(endpoint string) string {
	u, err := url.Parse("http://" + endpoint)
	if err != nil {
		return "http:// or https:// and the host"
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || ip != nil && ip.IsLoopback() {
		return "http://" + endpoint
	}
	return "https://" + endpoint
}

func validPort(port string) bool {
	if port == "" {
		return true
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

// gatewayRegion returns the region in the host name of an API Gateway endpoint, ID.execute-api.REGION.amazonaws.com or that of a
// VPC endpoint or of another partition. ok is false for any other host.
func gatewayRegion(host string) (region string, ok bool) {
	parts := strings.Split(host, ".")
	i := slices.Index(parts, "execute-api")
	if i < 1 || i+2 >= len(parts) || !slices.Contains(parts[i+2:], "amazonaws") {
		return "", false
	}
	return parts[i+1], true
}

// signingRegion returns the region that requests are signed for.
func (c Config) signingRegion() string {
	if u, err := url.Parse(c.Endpoint); c.Region == "" && err == nil {
		region, _ := gatewayRegion(u.Hostname())
		return region
	}
	return c.Region
}
