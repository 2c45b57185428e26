//! End-to-end tests: the relay between a client and upstreams that are scripts of literal bytes.
//!
//! The files are in the order of what they build on. If one fails, read no further.
//!
//! The first release had defects that must not come back. Where each of them is tested:
//!
//! | defect of the first release | test |
//! |---|---|
//! | D1 a POST was repeated | `regressions::post_is_not_repeated_once_it_was_sent`, `persistence::a_post_whose_reused_connection_breaks_is_not_repeated`, `failover::only_idempotent_methods_are_repeated_after_they_were_sent`, `failover::a_thousand_requests_survive_random_kills_and_no_post_arrives_twice` |
//! | D2 the body was lost on a retry | `regressions::a_body_is_repeated_whole_or_not_at_all`, `..a_body_that_is_gone_is_not_repeated`, `..a_body_of_any_method_arrives_whole_behind_an_upstream_that_refuses`, `failover::a_chunked_body_is_repeated_whole` |
//! | D3 a client that left took upstreams offline | `persistence::a_client_that_resets_is_the_fault_of_no_upstream`, `health::a_client_that_leaves_at_any_stage_is_the_fault_of_no_upstream`, `failover::nothing_is_repeated_for_a_client_that_is_gone`, `deadlines::a_client_that_does_not_read_is_cut_and_blamed_alone` |
//! | D3b one failure or one probe decided, 502 with nobody online | `health::fall_failures_in_a_row_are_needed`, `health::rise_probes_in_a_row_are_needed`, `health::with_no_upstream_online_the_answer_is_503_and_when_to_come_back`, `health::a_probe_that_passes_through_nobody_is_held_against_nobody` |
//! | D3c only offline upstreams were probed, storms of probes, three time limits for one probe | `health::online_upstreams_are_probed_if_the_file_says_so`, `health::a_get_that_waits_for_a_dead_upstream_is_answered_by_another`, `health::a_tiny_interval_makes_no_storm_of_probes`, `health::a_probe_that_trickles_in_is_too_late_all_the_same` |
//! | D3d a tunnel's lifetime counted as latency | `tunnel::the_latency_of_a_tunnel_is_that_of_its_answer`, `balance::latency_ends_with_the_first_byte_of_the_response`, `balance::latency_begins_with_the_attempt`, `balance::latency_is_finer_than_a_millisecond` |
//! | D3e a pending CONNECT did not count | `connect::a_pending_connect_counts_as_active`, `balance::best_counts_what_is_under_way_from_the_moment_it_is_picked`, `balance::ties_rotate` |
//! | D4 a second response inside the first | `framing::a_response_that_breaks_off_breaks_off_at_the_client`, `failover::a_response_that_has_begun_is_never_repeated` |
//! | D5 the request timeout cut tunnels and idle clients | `tunnel::the_request_timeout_does_not_touch_an_open_tunnel`, `persistence::an_idle_client_is_closed_without_a_word`, `deadlines::the_request_timeout_begins_with_the_last_byte_of_the_request`, `deadlines::a_response_body_may_take_longer_than_any_request_timeout`, `threads::counts_return_to_zero_after_every_kind_of_ending` |
//! | D5b counts were copied at a reload, upstreams tried told by position | `reload::a_lease_that_outlives_a_reload_ends_on_the_same_count`, `reload::what_is_under_way_at_a_removed_upstream_finishes`, `failover::a_reload_between_two_attempts_excludes_nobody_else` |
//! | D5c weights as lists, weight 0 meant 1 | `balance::a_huge_weight_costs_nothing_and_none_gets_nothing` |
//! | D6a chunked data that looks like its end | `framing::an_end_marker_inside_data_is_data` |
//! | D6b trailers and extensions hung | `framing::chunk_extensions_are_left_out_and_the_framing_is_written_anew`, `framing::trailers_pass` |
//! | D6c a body in one packet with its head hung | `framing::a_chunked_body_in_one_piece_with_its_head_ends_where_it_ends` |
//! | D6d an end within a chunk counted as success | `framing::a_response_that_breaks_off_within_a_chunk_breaks_off_at_the_client`, `framing::a_request_that_breaks_off_is_never_completed` |
//! | D7 bare line feeds, bytes beyond ASCII | `head::a_bare_line_feed_or_carriage_return_is_refused`, `head::bytes_beyond_ascii_in_a_value_pass_unchanged`, `hop_by_hop::the_clients_proxy_credentials_stop_here` |
//! | D8 hop-by-hop fields passed, no Via | `hop_by_hop::hop_by_hop_fields_of_a_request_stop_here`, `..of_a_response_stop_here`, `..fields_named_by_connection_stop_here`, `..via_is_added_to_a_request` |
//! | D9 a 1xx taken for the answer | `interim::a_100_is_relayed_and_so_is_the_response_behind_it`, `interim::early_hints_are_relayed_with_their_fields`, `upgrade::a_101_opens_a_tunnel` |
//! | D10 uploads and `Expect` deadlocked | `interim::expect_continue_works_end_to_end`, `interim::a_final_answer_to_a_half_sent_upload_is_relayed_at_once`, `..reaches_a_client_that_is_stuck_in_its_upload` |
//! | D11 bytes behind a response reached the client | `framing::bytes_behind_a_response_without_a_body_never_reach_the_client`, `..behind_the_end_of_a_response_never_reach_the_client`, `reuse::bytes_behind_a_response_poison_its_connection` |
//! | D11b smuggling | all of `desync` and `smuggling`, `persistence::each_pipelined_request_goes_its_own_way` |
//! | D11c chunks for HTTP/1.0, `Connection` as a substring | `http10::a_chunked_response_is_decoded`, `persistence::an_option_that_only_resembles_close_closes_nothing` |
//! | D12 ports and IPv6 literals of CONNECT | `connect::a_target_without_a_valid_port_is_refused`, `connect::an_ipv6_literal_keeps_its_brackets`, `target::a_port_that_is_none_is_refused` |
//! | D12b scheme, query, Host, https | `target::the_scheme_is_read_in_any_case`, `..a_query_without_a_path_gets_one`, `..host_is_replaced_by_the_authority_of_the_target`, `..a_target_of_another_scheme_is_refused_on_the_direct_way_and_told_to_use_connect` |
//! | D13 half a reload, SIGHUP killed, bad files told for ever | `reload::all_of_a_new_configuration_applies_at_once`, `reload::a_broken_file_changes_nothing_and_is_told_once`, `reload::a_changed_file_is_seen_without_being_told`, `process::sighup_reloads_and_never_kills` |
//! | D14 a storm of log lines without descriptors | `process::without_descriptors_it_waits_says_so_once_and_recovers` |
//! | D15 the listener stayed open, idle clients held the exit, no second signal | `process::sigterm_and_sigint_finish_a_download_and_exit_with_0`, `process::a_second_signal_ends_it_now`, `shutdown::idle_connections_are_closed_at_once` |
//! | D16 origin-form and this machine were reached | `target::origin_form_is_not_sent_to_the_host_it_names`, `regressions::a_request_that_came_through_another_relay_does_not_reach_this_machine` |
//! | D17 a relay that is its own upstream | `hop_by_hop::a_relay_that_is_its_own_upstream_goes_round_once`, `..a_request_that_went_through_here_before_is_508` |
//! | D18 large heads, many fields | `head::a_head_that_is_too_large_is_431`, `..a_request_line_that_is_too_long_is_414`, `connect::an_answer_with_many_fields_opens_the_tunnel`, `limits::the_size_of_a_head_can_be_limited` |
//! | D19 bytes around CONNECT lost, 2xx, refusals, 407 | `connect::bytes_the_client_sends_with_connect_reach_the_tunnel`, `..bytes_the_upstream_sends_with_its_answer_reach_the_client`, `..any_2xx_opens_the_tunnel`, `..a_refusal_of_the_upstream_is_relayed_with_its_fields_and_body`, `..a_407_of_an_upstream_sends_connect_to_the_next_one`, `failover::a_407_of_an_upstream_sends_any_method_to_the_next_one_and_takes_it_offline` |
//! | D19b no limit on the answer to CONNECT, nor on a head | `connect::an_answer_that_does_not_come_in_time_is_504`, `head::a_head_that_stays_incomplete_is_408`, `limits::half_a_head_is_told_408`, `limits::a_head_that_trickles_in_is_told_408`, `deadlines::a_response_that_does_not_begin_in_time_is_504` |
//! | D22 an admin server that split requests and silent clients broke | `src/admin/tests.rs` |
//! | D23 userinfo forwarded and logged | `target::userinfo_is_never_forwarded`, `target::userinfo_is_not_in_the_access_log`, `access_log::userinfo_is_never_shown` |
//! | D24 the end of the connection instead of 502 | `persistence::an_upstream_that_closes_without_an_answer_is_502`, `failover::a_request_that_failed_everywhere_is_answered`, `access_log::every_refusal_has_a_line_and_its_cause`, `access_log::a_line_tells_everything_of_an_exchange` |
//! | D25 bytes of a reset tunnel were not counted, a 502 was a success | `access_log::a_tunnel_has_one_line_however_it_ends`, `admin::counters_add_up_over_answers_failures_tunnels_and_resets`, `admin::bytes_are_those_that_were_sent` |
//! | D26 the policy was a scan, spellings and addresses went around it | `route::no_spelling_of_a_host_walks_around_the_policy`, `route::addresses_and_networks_match_addresses`, `route::a_long_list_costs_a_request_nothing` |
//! | D27 names asked for at every connection, refusals lost in a reset | `dns::a_name_is_asked_for_once`, `dns::a_look_up_that_hangs_is_504_and_holds_nobody_else`, `limits::the_answer_reaches_a_client_that_is_sending` |
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
mod incidents;
mod interim;

/// Clients of HTTP/1.0.
mod http10;

/// OPTIONS, TRACE and `Max-Forwards`.
mod options_trace;

/// What opens a tunnel.
mod connect;

/// Upstreams that speak SOCKS5.
mod socks;

/// Upstreams that are reached over TLS.
#[cfg(feature = "tls")]
mod tls;

/// What happens in it.
mod tunnel;

/// Large bodies.
mod bulk;

/// 101 and what follows it.
mod upgrade;

/// What operators see and do.
mod actions;
mod admin;

/// Attacks, each followed by an honest request.
mod smuggling;

/// Messages that can be read in two ways, as tables; from both sides and in every piece.
mod desync;

/// Defects of the first release that belong nowhere else.
mod regressions;

/// Who gets the next request.
mod balance;

/// What is repeated elsewhere.
mod failover;

/// Whose fault a failure is, and what follows.
mod health;

/// What poison costs everybody else.
mod availability;

/// Idle connections to upstreams.
mod reuse;

/// What comes on them unasked.
mod strays;

/// How much is taken on.
mod limits;
mod room;

/// Which wait ends when.
mod deadlines;

/// Peers that never come to an end.
mod attacks;

/// Who goes through an upstream and who directly.
mod route;
mod rules;

/// Sessions that keep their upstream, and upstreams that rest.
mod exits;

/// What upstreams are told of the client.
mod told;

/// Names and their addresses.
mod dns;

/// Connections to upstreams, several against each other.
mod connecting;

/// Who may use the relay.
mod access;

/// A new configuration.
mod reload;
mod request_id;

/// The end.
mod shutdown;

/// One line for each exchange.
mod access_log;

/// Threads, and what stays counted.
mod threads;

/// The program as a process.
mod process;

/// The whole process stands still, and goes on.
mod standstill;

/// Clients that come through a balancer.
mod proxy_protocol;
