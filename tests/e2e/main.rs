//! End-to-end tests: the relay between a client and upstreams that are scripts of literal bytes.
//!
//! The files are in the order of what they build on. If one fails, read no further.
//!
//! The first release had defects that must not come back. Where each of them is tested:
//!
//! | defect of the first release | test |
//! |---|---|
//! | D1 a POST was repeated | `regressions::post_is_not_repeated_once_it_was_sent`, `persistence::a_post_whose_reused_connection_breaks_is_not_repeated` |
//! | D2 the body was lost on a retry | `regressions::a_body_is_repeated_whole_or_not_at_all`, `..a_body_that_is_gone_is_not_repeated`, `..a_body_of_any_method_arrives_whole_behind_an_upstream_that_refuses` |
//! | D3 a client that left took upstreams offline | `persistence::a_client_that_resets_is_the_fault_of_no_upstream` |
//! | D3d a tunnel's lifetime counted as latency | `tunnel::the_latency_of_a_tunnel_is_that_of_its_answer` |
//! | D3e a pending CONNECT did not count | `connect::a_pending_connect_counts_as_active` |
//! | D4 a second response inside the first | `framing::a_response_that_breaks_off_breaks_off_at_the_client` |
//! | D5 the request timeout cut tunnels and idle clients | `tunnel::the_request_timeout_does_not_touch_an_open_tunnel`, `persistence::an_idle_client_is_closed_without_a_word` |
//! | D6a chunked data that looks like its end | `framing::an_end_marker_inside_data_is_data` |
//! | D6b trailers and extensions hung | `framing::chunk_extensions_are_left_out_and_the_framing_is_written_anew`, `framing::trailers_pass` |
//! | D6c a body in one packet with its head hung | `framing::a_chunked_body_in_one_piece_with_its_head_ends_where_it_ends` |
//! | D6d an end within a chunk counted as success | `framing::a_response_that_breaks_off_within_a_chunk_breaks_off_at_the_client`, `framing::a_request_that_breaks_off_is_never_completed` |
//! | D7 bare line feeds, bytes beyond ASCII | `head::a_bare_line_feed_or_carriage_return_is_refused`, `head::bytes_beyond_ascii_in_a_value_pass_unchanged`, `hop_by_hop::the_clients_proxy_credentials_stop_here` |
//! | D8 hop-by-hop fields passed, no Via | `hop_by_hop::hop_by_hop_fields_of_a_request_stop_here`, `..of_a_response_stop_here`, `..fields_named_by_connection_stop_here`, `..via_is_added_to_a_request` |
//! | D9 a 1xx taken for the answer | `interim::a_100_is_relayed_and_so_is_the_response_behind_it`, `interim::early_hints_are_relayed_with_their_fields`, `upgrade::a_101_opens_a_tunnel` |
//! | D10 uploads and `Expect` deadlocked | `interim::expect_continue_works_end_to_end`, `interim::a_final_answer_to_a_half_sent_upload_is_relayed_at_once`, `..reaches_a_client_that_is_stuck_in_its_upload` |
//! | D11 bytes behind a response reached the client | `framing::bytes_behind_a_response_without_a_body_never_reach_the_client`, `..behind_the_end_of_a_response_never_reach_the_client` |
//! | D11b smuggling | all of `smuggling`, `persistence::each_pipelined_request_goes_its_own_way` |
//! | D11c chunks for HTTP/1.0, `Connection` as a substring | `http10::a_chunked_response_is_decoded`, `persistence::an_option_that_only_resembles_close_closes_nothing` |
//! | D12 ports and IPv6 literals of CONNECT | `connect::a_target_without_a_valid_port_is_refused`, `connect::an_ipv6_literal_keeps_its_brackets`, `target::a_port_that_is_none_is_refused` |
//! | D12b scheme, query, Host, https | `target::the_scheme_is_read_in_any_case`, `..a_query_without_a_path_gets_one`, `..host_is_replaced_by_the_authority_of_the_target`, `..an_https_target_is_refused_and_told_to_use_connect` |
//! | D16 origin-form and this machine were reached | `target::origin_form_is_not_sent_to_the_host_it_names`, `regressions::a_request_that_came_through_another_relay_does_not_reach_this_machine` |
//! | D17 a relay that is its own upstream | `hop_by_hop::a_relay_that_is_its_own_upstream_goes_round_once`, `..a_request_that_went_through_here_before_is_508` |
//! | D18 large heads, many fields | `head::a_head_that_is_too_large_is_431`, `..a_request_line_that_is_too_long_is_414`, `connect::an_answer_with_many_fields_opens_the_tunnel` |
//! | D19 bytes around CONNECT lost, 2xx, refusals, 407 | `connect::bytes_the_client_sends_with_connect_reach_the_tunnel`, `..bytes_the_upstream_sends_with_its_answer_reach_the_client`, `..any_2xx_opens_the_tunnel`, `..a_refusal_of_the_upstream_is_relayed_with_its_fields_and_body`, `..a_407_of_an_upstream_sends_connect_to_the_next_one` |
//! | D19b no limit on the answer to CONNECT, nor on a head | `connect::an_answer_that_does_not_come_in_time_is_504`, `head::a_head_that_stays_incomplete_is_408` |
//! | D23 userinfo forwarded and logged | `target::userinfo_is_never_forwarded`, `target::userinfo_is_not_in_the_access_log` |
//! | D24 the end of the connection instead of 502 | `persistence::an_upstream_that_closes_without_an_answer_is_502` |
#![cfg(test)]

/// Proxy, client and upstream as the tests see them.
mod harness;

/// Where a request leads.
mod target;

/// What a head may look like and how large it may be.
mod head;

/// Where a body ends.
mod framing;

/// Which fields pass.
mod hop_by_hop;

/// Which connections stay.
mod persistence;

/// 1xx, `Expect`, and answers that come early.
mod interim;

/// Clients of HTTP/1.0.
mod http10;

/// OPTIONS, TRACE and `Max-Forwards`.
mod options_trace;

/// What opens a tunnel.
mod connect;

/// What happens in it.
mod tunnel;

/// 101 and what follows it.
mod upgrade;

/// Attacks, each followed by an honest request.
mod smuggling;

/// Defects of the first release that belong nowhere else.
mod regressions;

/// Who gets the next request.
mod balance;

/// What is repeated elsewhere.
mod failover;

/// Whose fault a failure is, and what follows.
mod health;

/// Idle connections to upstreams.
mod reuse;

/// How much is taken on.
mod limits;

/// Which wait ends when.
mod deadlines;

/// Who goes through an upstream and who directly.
mod route;

/// Names and their addresses.
mod dns;

/// Who may use the relay.
mod access;

/// A new configuration.
mod reload;

/// The end.
mod shutdown;

/// One line for each exchange.
mod access_log;

/// Threads, and what stays counted.
mod threads;

/// The program as a process.
mod process;
