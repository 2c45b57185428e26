//! Squid, tinyproxy and microsocks, each with a configuration an administrator could have written.

use std::process::Command;

use crate::machine::{Folder, free_port};
use crate::programs::{Server, run, tool};

/// What an upstream wants to hear; the password has the characters that break naive parsers.
#[derive(Clone, Copy)]
pub(crate) struct Login {
    pub(crate) user: &'static str,
    pub(crate) password: &'static str,
}

/// An upstream proxy that can be killed and started again on its port.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) login: Option<Login>,
    /// That of its URL.
    pub(crate) scheme: &'static str,
    server: Server,
    start: Box<dyn Fn() -> Server>,
    // After the server, so that it goes away after it.
    _folder: Folder,
}

impl Proxy {
    pub(crate) fn port(&self) -> u16 {
        self.server.port()
    }

    /// Ends it as the kernel would.
    pub(crate) fn kill(&mut self) {
        self.server.program.kill();
    }

    /// Starts it again on the same port, and waits until it accepts.
    pub(crate) fn revive(&mut self) {
        self.server = (self.start)();
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Any proxy: `start` must use the same port each time.
    pub(crate) fn new(
        name: &'static str,
        login: Option<Login>,
        folder: Folder,
        start: impl Fn() -> Server + 'static,
    ) -> Self {
        Self {
            name,
            login,
            scheme: "http",
            server: start(),
            start: Box::new(start),
            _folder: folder,
        }
    }
}

/// Squid with Basic authentication and its stock access rules. `tls_port` is where CONNECT may
/// go, besides 443: the stock rule denies it everything else.
pub(crate) fn squid(tls_port: u16) -> Proxy {
    const LOGIN: Login = Login {
        user: "alice",
        password: "p:a@s/s%w0rd",
    };
    let folder = Folder::new();
    let state = folder.shared("squid");
    let hash = run(tool("openssl", folder.path()).args(["passwd", "-apr1", LOGIN.password]));
    let users = folder.write("users", format!("{}:{}", LOGIN.user, hash.expect_text()));
    let port = free_port();
    let (users, place) = (users.display(), state.display());
    let config = folder.write(
        "squid.conf",
        format!(
            "http_port 127.0.0.1:{port}
             pid_filename none
             cache_log {place}/cache.log
             access_log stdio:{place}/access.log
             coredump_dir {place}
             cache deny all
             pinger_enable off
             tls_outgoing_options flags=DONT_VERIFY_PEER
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {users}
             auth_param basic children 2
             auth_param basic realm real
             acl SSL_ports port 443
             acl SSL_ports port {tls_port}
             acl Safe_ports port 80
             acl Safe_ports port 443
             acl Safe_ports port 1025-65535
             http_access deny !Safe_ports
             http_access deny CONNECT !SSL_ports
             acl known proxy_auth REQUIRED
             http_access allow known
             http_access deny all
            "
        )
        .replace("\n             ", "\n"),
    );
    let output = folder.path().join("output");
    Proxy::new("squid", Some(LOGIN), folder, move || {
        let mut command = Command::new("squid");
        command.arg("-N").arg("-f").arg(&config);
        Server::start(&mut command, output.clone(), port)
    })
}

/// nginx as a forward proxy, as many have it: it has no CONNECT.
pub(crate) fn forwarding_nginx() -> Proxy {
    let folder = Folder::new();
    let port = free_port();
    let config = folder.write(
        "nginx.conf",
        format!(
            "daemon off; master_process off; pid nginx.pid; events {{}}
             http {{
               access_log off;
               client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
               uwsgi_temp_path uwsgi; scgi_temp_path scgi;
               server {{
                 listen 127.0.0.1:{port};
                 if ($http_host = 127.0.0.1:{port}) {{ return 400; }}
                 location / {{ proxy_pass http://$http_host$request_uri; }}
               }}
             }}"
        ),
    );
    let (output, place) = (folder.path().join("output"), folder.path().to_owned());
    Proxy::new("nginx", None, folder, move || {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&place).arg("-c").arg(&config);
        command.args(["-e", "error.log"]);
        Server::start(&mut command, output.clone(), port)
    })
}

/// tinyproxy with Basic authentication. It answers in HTTP/1.0 and closes each connection.
pub(crate) fn tinyproxy() -> Proxy {
    tinyproxy_for(Some(Login {
        user: "bob",
        password: "sesame",
    }))
}

/// tinyproxy for everybody who can reach it.
pub(crate) fn open_tinyproxy() -> Proxy {
    tinyproxy_for(None)
}

/// microsocks, a SOCKS5 proxy, for everybody or with a login.
pub(crate) fn microsocks(login: Option<Login>) -> Proxy {
    let folder = Folder::new();
    let port = free_port();
    let output = folder.path().join("output");
    let start = move || {
        let mut command = Command::new("microsocks");
        command.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(login) = login {
            command.args(["-u", login.user, "-P", login.password]);
        }
        Server::start(&mut command, output.clone(), port)
    };
    Proxy {
        scheme: "socks5",
        ..Proxy::new("microsocks", login, folder, start)
    }
}

fn tinyproxy_for(login: Option<Login>) -> Proxy {
    let folder = Folder::new();
    let port = free_port();
    let log = folder.shared("tinyproxy").join("log");
    let authentication = login.map_or_else(String::new, |login| {
        format!("BasicAuth {} {}\n", login.user, login.password)
    });
    let config = folder.write(
        "tinyproxy.conf",
        format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 600\nLogFile \"{}\"\nLogLevel Warning\n\
             MaxClients 600\nAllow 127.0.0.1\nViaProxyName \"tinyproxy\"\n{authentication}",
            log.display()
        ),
    );
    let output = folder.path().join("output");
    Proxy::new("tinyproxy", login, folder, move || {
        let mut command = Command::new("tinyproxy");
        command.arg("-d").arg("-c").arg(&config);
        Server::start(&mut command, output.clone(), port)
    })
}
