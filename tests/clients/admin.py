"""haproxyadmin as somebody uses it: reads everything that it knows, drains a server, weighs it, takes it back."""
import sys

from haproxyadmin import haproxy

node = haproxy.HAProxy(socket_file=sys.argv[1])
print("version", node.version)
print("requests", node.totalrequests)
for backend in node.backends():
    print("backend", backend.name, backend.status, backend.requests)
    for server in backend.servers():
        print("server", server.name, server.status, server.weight, server.address, server.port, server.requests)
for frontend in node.frontends():
    print("frontend", frontend.name, frontend.status, frontend.requests)

server = node.server(sys.argv[2], backend="pbx")[0]
assert server.setstate("drain") is True and server.status == "DRAIN", server.status
assert server.setstate("maint") is True and server.status == "MAINT", server.status
assert server.setstate("enable") is True
assert server.setweight(50) is True and int(server.weight) == 50, server.weight
assert server.setweight("100%") is True and int(server.weight) == 100, server.weight
assert node.clearcounters() is True
print("done")
