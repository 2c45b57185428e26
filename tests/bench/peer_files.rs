//! The configurations of the peers: what an administrator would write who wants speed.
//!
//! For all of them: as many threads as the table's machine has cores, where they can use them;
//! connections kept on both sides; no cache, no log per request, no time limit that ends an idle
//! connection during a run; requests spread in turn over all upstreams. tinyproxy can neither keep
//! connections nor spread requests and has one upstream.

use std::path::Path;

/// One line for each upstream.
fn lines(upstreams: &[u16], line: impl Fn(usize, u16) -> String) -> String {
    let numbered = upstreams.iter().enumerate();
    numbered.map(|(index, &port)| line(index, port)).collect()
}

fn haproxy_in(mode: &str, reuse: &str, port: u16, upstreams: &[u16]) -> String {
    let servers = lines(upstreams, |index, port| {
        format!("  server u{index} 127.0.0.1:{port}\n")
    });
    format!(
        "global
  nbthread 2
defaults
  mode {mode}
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind 127.0.0.1:{port}
  default_backend upstreams
backend upstreams
  balance roundrobin
{reuse}{servers}"
    )
}

pub(crate) fn haproxy(port: u16, upstreams: &[u16]) -> String {
    haproxy_in("http", "  http-reuse always\n", port, upstreams)
}

pub(crate) fn haproxy_tcp(port: u16, upstreams: &[u16]) -> String {
    haproxy_in("tcp", "", port, upstreams)
}

pub(crate) fn squid(port: u16, upstreams: &[u16]) -> String {
    let peers = lines(upstreams, |index, port| {
        format!(
            "cache_peer 127.0.0.1 parent {port} 0 round-robin no-query no-digest \
             no-netdb-exchange name=u{index}\n"
        )
    });
    format!(
        "http_port 127.0.0.1:{port}
pid_filename none
cache deny all
cache_mem 0
access_log none
cache_log /dev/null
http_access allow all
never_direct allow all
nonhierarchical_direct off
via off
forwarded_for transparent
pinger_enable off
client_idle_pconn_timeout 1 hour
shutdown_lifetime 0 seconds
{peers}"
    )
}

pub(crate) fn tinyproxy(port: u16, upstreams: &[u16]) -> String {
    let upstream = upstreams.first().copied().unwrap_or_default();
    format!(
        "Port {port}
Listen 127.0.0.1
Timeout 3600
MaxClients 10000
LogLevel Critical
DisableViaHeader Yes
Upstream http 127.0.0.1:{upstream}
"
    )
}

pub(crate) fn nginx(port: u16, upstreams: &[u16], folder: &Path) -> String {
    let servers = lines(upstreams, |_, port| {
        format!("    server 127.0.0.1:{port};\n")
    });
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
user root;
worker_processes 2;
worker_rlimit_nofile 20000;
daemon off;
pid {}/nginx.pid;
error_log stderr crit;
events {{
  worker_connections 20000;
}}
stream {{
  upstream upstreams {{
{servers}  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    proxy_pass upstreams;
    proxy_timeout 1h;
  }}
}}
",
        folder.display()
    )
}

/// Traffic Server wants a whole tree of folders; the first file tells where they are.
pub(crate) fn trafficserver(
    port: u16,
    upstreams: &[u16],
    folder: &Path,
) -> Vec<(&'static str, String)> {
    let root = folder.display();
    let layout = format!(
        "prefix: {root}
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {root}
datadir: {root}
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {root}
runtimedir: {root}
logdir: {root}
cachedir: {root}
"
    );
    let records = format!(
        "CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.exec_thread.autoconfig.enabled INT 0
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 2
CONFIG proxy.config.url_remap.remap_required INT 0
CONFIG proxy.config.reverse_proxy.enabled INT 0
CONFIG proxy.config.http.cache.http INT 0
CONFIG proxy.config.http.connect_ports STRING *
CONFIG proxy.config.http.forward_connect_method INT 1
CONFIG proxy.config.http.no_dns_just_forward_to_parent INT 1
CONFIG proxy.config.http.parent_proxy.self_detect INT 0
CONFIG proxy.config.http.insert_request_via_str INT 0
CONFIG proxy.config.http.insert_response_via_str INT 0
CONFIG proxy.config.http.insert_squid_x_forwarded_for INT 0
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 3600
CONFIG proxy.config.http.transaction_no_activity_timeout_in INT 3600
CONFIG proxy.config.http.transaction_no_activity_timeout_out INT 3600
CONFIG proxy.config.net.connections_throttle INT 19000
CONFIG proxy.config.log.logging_enabled INT 0
"
    );
    let parents = lines(upstreams, |index, port| {
        let separator = if index == 0 { "" } else { ";" };
        format!("{separator}127.0.0.1:{port}")
    });
    vec![
        ("runroot.yaml", layout),
        ("records.config", records),
        (
            "parent.config",
            format!("dest_domain=. parent=\"{parents}\" round_robin=strict go_direct=false\n"),
        ),
        ("storage.config", String::new()),
        (
            "ip_allow.yaml",
            "ip_allow:\n- {apply: in, ip_addrs: 0/0, action: allow, methods: ALL}\n".to_owned(),
        ),
    ]
}
