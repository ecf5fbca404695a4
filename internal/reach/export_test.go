package reach

var ProxyForTLS = proxyForTLS
