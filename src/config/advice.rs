//! What is valid and may still surprise: said at the start and by `--check`.

use super::checked::Config;
use super::listen::ListenAddress;
use super::reader::KeyBlock;

/// Looks at `config` as a whole.
pub(super) fn give(root: &KeyBlock<'_>, config: &Config) {
    about_clients(root, config);
    about_admin(root, config);
    about_next_hops(root, config);
    if !config.via {
        let text = "without Via fields a request that comes back to this proxy goes round in \
                    circles: leave the key out unless an upstream cannot bear the field";
        root.place_of("via").advice(text);
    }
}

fn about_clients(root: &KeyBlock<'_>, config: &Config) {
    if config.listen.is_loopback() || !config.access.users.is_empty() {
        return;
    }
    let listen = &config.listen;
    let text = if config.access.allow.holds_everything() {
        format!(
            "anyone who can reach {listen} may use this proxy: `access.allow` holds every \
             address; name networks there, or users in `access.users`"
        )
    } else {
        format!(
            "anyone who can reach {listen} from {} may use this proxy; to narrow that, set \
             `access.allow` or `access.users`",
            config.access.allow
        )
    };
    root.place_of("listen").advice(text);
}

fn about_admin(root: &KeyBlock<'_>, config: &Config) {
    let place = root.place_of("admin_listen");
    let Some(admin) = &config.admin_listen else {
        if config.admin_token.is_some() {
            place.advice("the admin token has no effect without this key");
        }
        return;
    };
    if clashes(admin, &config.listen) {
        place.error(format!(
            "`listen` is {} already: choose another port",
            config.listen
        ));
    }
    if !admin.is_loopback() && config.admin_token.is_none() {
        place.advice(format!(
            "anyone who can reach {admin} may read the state of this proxy: set \
             `admin_token_file`, or listen on 127.0.0.1:{}",
            admin.port
        ));
    }
}

/// Whether the second of two listeners would find its port taken.
fn clashes(one: &ListenAddress, other: &ListenAddress) -> bool {
    let same_host = one.host == other.host || one.is_unspecified() || other.is_unspecified();
    one.port == other.port && one.port != 0 && same_host
}

fn about_next_hops(root: &KeyBlock<'_>, config: &Config) {
    if !config.rules.needs_upstream() {
        // an empty pool is fine
    } else if config.upstreams.is_empty() {
        let text = "no upstream is configured, so requests are answered with 503: add one as \
                    `- url: http://host:port`";
        root.place_of("upstream").advice(text);
    } else if config.upstreams.iter().all(|upstream| upstream.weight == 0) {
        root.place_of("upstream")
            .advice("every upstream has weight 0, so requests are answered with 503");
    }
    for upstream in &config.upstreams {
        let authority = &upstream.authority;
        let there = ListenAddress {
            host: authority
                .host()
                .to_string()
                .trim_matches(['[', ']'])
                .to_owned(),
            port: authority.port(),
        };
        let local = there.is_loopback() && config.listen.is_unspecified();
        if there.port == config.listen.port && (local || there.host == config.listen.host) {
            root.place_of("upstream").advice(format!(
                "the upstream {} is this proxy itself",
                upstream.name
            ));
        }
    }
}
