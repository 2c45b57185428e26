//! Every limit on what a peer can influence: nothing else is in this module.
//!
//! A peer is whoever sends us bytes, or decides when they come: clients, upstreams, origins, name
//! servers, clients of the admin server, and, less likely to be hostile, the files that are read. `tests/bounds.rs`
//! keeps the tables true: each key, constant and test named here exists, and each key of `limits` and
//! each constant that is called `.._MAX` or `MOST..` is named here.
//!
//! The memory that clients can take is the product of two of them: each connection holds at most
//! `limits.max_header_bytes` of an incomplete head, and there are at most `limits.max_connections`.
//!
//! # Clients
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | connections | as many as descriptors allow: each may need another one | `limits.max_connections` | 503, and one line of log in 30 s | `a_connection_too_many_is_told_so_and_closed` |
//! | connections of one address, or one IPv6 /64 | none | `limits.max_connections_per_client` | 503, and one line of log in 30 s | `one_address_cannot_take_all_connections` |
//! | connections not yet accepted | 4096, or what the system allows | `BACKLOG` | the system lets them wait | `a_full_listen_queue_empties_again` |
//! | descriptors | the hard limit of the process, at most 2^20 | `MOST_FILES` | 503 to one client after another, with growing pauses and one line of log in 30 s; idle connections to upstreams are given up | `without_descriptors_it_waits_says_so_once_and_recovers`, `kept_connections_give_way_when_descriptors_run_out` |
//! | silence before and between requests | 60 s | `limits.idle_timeout_secs` | closed without a word | `a_connection_without_a_byte_is_closed_without_a_word` |
//! | time for a head | 15 s from its first byte | `limits.header_timeout_secs` | 408 | `half_a_head_is_told_408`, `a_head_that_trickles_in_is_told_408` |
//! | a head | 64 KiB | `limits.max_header_bytes` | 431 | `a_head_that_is_too_large_is_431`, `a_flood_of_fields_is_431_and_others_are_served` |
//! | its request line | 16 KiB | `REQUEST_LINE_MAX` | 414 | `a_request_line_that_is_too_long_is_414` |
//! | its fields | 256 | `FIELDS_MAX` | 431 | `two_hundred_and_fifty_six_fields_pass_and_one_more_is_431` |
//! | empty lines before it | 4; 2 between requests | `EMPTY_LINES_MAX`, `EMPTY_LINES` | 400 | `empty_lines_before_a_request_are_skipped` |
//! | the host of a target | 253 bytes, 63 a label | `NAME_MAX`, `LABEL_MAX` | 400 | `what_cannot_become_a_request_is_refused_at_once` |
//! | what they call a request, in the field of `request_id` | 128 bytes | `ID_MAX` | the request is named here | `a_clients_name_is_taken_if_it_is_said_once_and_is_short_and_plain` |
//! | what they call a session, in the user name for an upstream | 64 bytes | `PART_MAX` | a hash stands for it | `a_value_that_is_too_long_becomes_a_hash` |
//! | memory of a held connection | its unread bytes | `limits.max_header_bytes` | | `a_held_connection_keeps_its_unread_bytes_and_no_more_memory` |
//! | a PROXY header | 107 bytes as a line, 4096 as a block | `LINE_MAX`, `BLOCK_MAX` | 400 | `a_malformed_block_is_refused` |
//! | requests on a connection | none: each is served in its turn, and none is kept; between two of them the others of the lane come first | | | `ten_thousand_pipelined_requests_are_answered_in_order`, `a_pipeline_whose_answers_nobody_reads_is_cut`, `an_endless_pipeline_makes_way_for_whoever_waits` |
//! | requests that wait for a worker | four for each worker | `limits.queue` | 503 | `more_waiting_requests_than_the_queue_holds_are_refused` |
//! | how long they wait | 5 s | `limits.queue_timeout_secs` | 503 | `a_request_that_waits_too_long_for_a_worker_is_refused` |
//! | requests at work, with a thread or waiting for their next hop | 64 a core, between 512 and 1024 | `limits.workers`, at most 16384 | the request waits | `never_more_workers_are_started_than_the_file_says`, `requests_that_wait_for_an_upstream_count_as_workers` |
//! | permits of one address | as many as there are; of those that wait, the addresses take turns | | the others go first | `one_address_cannot_take_all_workers` |
//! | threads for what lasts | three quarters of what the system allows, at most 16384 | `MOST_LONG_THREADS` | exchanges keep their permits, busy tunnels are carried by the event loops | `endless_streams_and_stalled_readers_do_not_use_up_the_workers`, `with_forty_threads_it_answers_and_recovers` |
//! | those of tunnels of one address | the last eighth is for clients that have less than half of them | | the event loops carry them | `one_client_cannot_take_all_threads_for_tunnels` |
//! | the stack of a thread | 1 MiB; half of that to look names up | `STACK`, `LOOK_UP_STACK` | | `the_deepest_request_needs_less_than_an_eighth_of_a_stack` |
//! | a body without progress | 60 s | `limits.io_timeout_secs` | 408, or the end of the connection | `a_body_that_stops_is_told_408_and_blamed_on_no_upstream`, `an_upstream_that_drips_does_not_keep_a_stopped_upload_alive` |
//! | a reader without progress | 60 s | `limits.io_timeout_secs` | the end of the connection | `a_client_that_does_not_read_is_cut_and_blamed_alone` |
//! | a body that makes progress | none: it gives up its permit after a second, if others wait | | | `slow_bodies_leave_the_workers_to_others` |
//! | a chunk size | 16 digits | `SIZE_DIGITS_MAX` | 400 | `sizes_that_do_not_fit_are_refused` |
//! | chunk extensions | 1 KiB a line, 16 KiB a body | `EXTENSION_LINE_MAX`, `EXTENSIONS_MAX` | 431 | `endless_chunk_extensions_of_a_request_are_refused` |
//! | trailers | as a head | `limits.max_header_bytes`, `FIELDS_MAX` | 431 | `endless_trailers_of_a_request_are_refused` |
//! | a body kept to be sent again | 64 KiB | `REPLAYABLE` | it is sent once only | `a_body_that_is_gone_is_not_repeated` |
//! | bytes of a body on their way | 148 KiB each way; 1 MiB of a long one of known length | `LARGE`, `WINDOW`, `PIPE_BYTES` | nothing more is read | `a_slow_client_costs_a_window_however_long_the_body_is` |
//! | bytes after the last answer | 16 MiB in 5 s | `LINGER_BYTES` | closed | `the_answer_reaches_a_client_that_is_sending` |
//! | refused connections that still send | 256, or a sixteenth of the descriptors | `MOST_UNCOUNTED` | closed at once | `a_connection_too_many_is_told_so_and_closed` |
//! | a silent tunnel | an hour | `limits.tunnel_idle_timeout_secs` | closed | `a_tunnel_that_is_silent_both_ways_is_closed` |
//! | the same, one side of which has ended | 5 min | `limits.tunnel_half_closed_secs` | closed | `a_tunnel_that_is_half_closed_and_silent_is_closed`, `the_silence_of_a_half_closed_tunnel_begins_with_the_end_of_its_side` |
//! | a stop | 30 s; of new connections no more than one queue full; for the rest of a head 1 s | `limits.shutdown_timeout_secs`, `BACKLOG`, `LAST_BYTES` | what is left is cut; 503 | `what_takes_longer_than_the_drain_time_is_cut_visibly`, `clients_that_keep_coming_do_not_keep_a_stop_from_beginning`, `a_head_that_stays_incomplete_does_not_hold_up_the_stop` |
//!
//! # Upstreams and origins
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | a connection | 5 s, the look-up of the name included | `limits.connect_timeout_secs` | the next upstream, or 504 | `an_upstream_that_does_not_accept_in_time_is_passed_over` |
//! | the same over TLS (feature `tls`): bytes on their way | 32 KiB each way, and what two sockets hold; the rest has 60 s without progress once the relay is done | `LOAD`, `FLUSH_TIME` | nothing more is read; the connection is dropped | `large_bodies_pass_both_ways_however_slowly_they_are_taken` |
//! | connections that are made for one request | to 4 upstreams; no further address of one while 4 are on their way | `MOST_RACING`, `MOST_BESIDE` | the first of them is waited for | `upstreams_that_swallow_connections_cost_a_moment` |
//! | upstreams that cannot be connected to, one request | all, each once | `limits.connect_timeout_secs` | 502 or 504 | `upstreams_that_cannot_be_connected_to_cost_no_attempt` |
//! | addresses of one upstream that are sent a request and close | 2 | | it has failed | `if_all_addresses_close_the_request_fails_as_at_any_upstream` |
//! | the head of the answer, one attempt | 300 s from the end of the request | `limits.response_timeout_secs` | 504 | `a_response_that_does_not_begin_in_time_is_504`, `an_upstream_that_drips_its_head_is_504` |
//! | the same for CONNECT | 60 s | `MOST_PATIENCE` | 504 | `an_answer_that_does_not_come_in_time_is_504` |
//! | the same, all attempts together | none | `limits.request_timeout_secs` | 504 | `all_attempts_together_have_one_request_timeout` |
//! | others that are asked whether a probe passes | 3 | `CONTROLS` | the target is at fault | `where_the_probe_passes_through_nobody_its_target_is_not_believed` |
//! | trials of an upstream that is offline | one at a time, one a second | `BETWEEN_TRIALS` | 503 | `while_nobody_is_in_service_one_request_a_second_tries_each_upstream` |
//! | connections that are not made, one request | 15 s together | 3 times `limits.connect_timeout_secs` | 502 or 504 | `a_request_waits_for_connections_as_long_as_for_those_of_three_attempts` |
//! | tunnels asked of one that has no CONNECT | one in 30 s while others open them | `ASKED_AGAIN_AFTER` | the others get them | `one_tunnel_in_a_while_shows_whether_there_still_is_no_connect` |
//! | requests that wait until an upstream has room | one a permit or thread for what lasts, 5 s | `limits.workers`, `limits.queue_timeout_secs` | 503 | `a_request_that_waits_too_long_for_room_is_refused` |
//! | attempts | 3 | `MOST_ATTEMPTS` | 502 or 504 | `a_request_that_failed_everywhere_is_answered` |
//! | the head of an answer | 64 KiB, any number of fields | `limits.max_header_bytes` | 502 | `a_response_head_without_an_end_is_502` |
//! | interim answers | 32 | `MOST_INTERIM` | 502 | `an_endless_run_of_interim_responses_is_502` |
//! | chunk extensions and trailers | as of clients, any number of fields | `EXTENSIONS_MAX`, `limits.max_header_bytes` | the client sees that the body breaks off, or 502 if nothing of it was sent yet | `endless_chunk_extensions_of_a_response_break_it_off`, `endless_trailers_of_a_response_break_it_off` |
//! | a body of which nothing comes | 15 min | `limits.response_idle_timeout_secs` | the client sees that it breaks off | `a_response_body_that_stops_breaks_off_at_the_client`, `an_event_stream_may_be_silent_for_longer_than_an_upload` |
//! | a request that is not taken | 60 s | `limits.io_timeout_secs` | 504 | `an_upstream_that_does_not_take_the_request_is_504_and_probed`, `a_client_that_leaves_while_its_request_is_not_taken_is_noticed` |
//! | sessions that keep their upstream | 65536 | `sticky.max_sessions` | the one that was not used for longest is forgotten | `the_least_recently_used_pin_leaves_when_there_are_too_many` |
//! | upstreams that rest, each for a host | 65536; 20 in `/status` | `MOST_RESTS`, `MOST_TOLD_RESTS` | of the client with most rests the one that ends first is over; the others are counted | `the_rest_that_ends_first_leaves_a_full_table`, `a_client_that_fills_the_table_ends_no_rest_of_others`, `an_answer_lets_its_upstream_rest_for_the_host_and_no_other` |
//! | waiting for a better answer | 5 s for each other upstream | `WITH_AN_ANSWER` | the client gets the one that is there | `with_an_answer_in_hand_no_other_upstream_is_waited_for_as_long_as_without` |
//! | a rest that an answer asks for | 10 times `rest[].secs` | `MOST_LONGER` | cut | `retry_after_is_honoured_up_to_ten_times_the_rest` |
//! | idle connections, each upstream | 64; 4 times as many for up to a second | `limits.upstream_idle_connections`, at most 65535; `AT_ONCE` | the oldest is closed | `a_sweep_drops_the_oldest_of_more_than_are_to_be_kept`, `when_there_are_too_many_at_once_the_oldest_leaves` |
//! | their age | 30 s | `limits.upstream_idle_secs` | closed | `one_that_is_too_old_is_neither_taken_nor_kept` |
//! | bytes nobody asked for | one | `REMEMBERED` | for 10 minutes each connection of that upstream serves one client | `late_bodies_behind_answers_without_one_reach_no_other_client` |
//! | connections that break under a request | one | `REMEMBERED` | for 10 minutes a request that cannot be repeated gets a fresh one | `of_requests_that_cannot_be_repeated_one_is_lost_to_an_upstream_that_closes_under_them` |
//! | origins behind a SOCKS5 upstream that did either | 100 | `MOST_DOUBTED` | the one that did it longest ago is forgotten | `of_too_many_origins_the_one_that_was_odd_longest_ago_is_forgotten` |
//! | pipes | 32, or one for 64 descriptors | `MOST_PIPES`, `FILES_PER_PIPE` | bytes are copied | `a_large_response_arrives_whole_where_no_pipe_can_be_had`, `a_tunnel_carries_megabytes_where_no_pipe_can_be_had` |
//! | pipes kept | 8, for 2 s | `SPARE_PIPES` | closed | `an_empty_pipe_is_lent_again_and_one_with_bytes_in_it_never`, `an_idle_pipe_that_was_not_used_between_two_sweeps_is_closed` |
//! | mappings for reads, and for what is held | 16384 | `MOST_MAPPINGS` | the heap is used | |
//! | buffers of more than 128 KiB, for what receivers do not take at once | 8 | `MOST_LONG` | no more than 128 KiB is moved at a time | `while_much_waits_for_receivers_less_is_moved_at_a_time` |
//! | pipes held while nothing moves | 20 ms | `QUIET` | given back | `clients_that_do_not_read_their_responses_leave_the_pipes_to_others`, `upstreams_that_do_not_take_their_requests_leave_the_pipes_to_others`, `tunnels_that_are_not_read_from_leave_pipes_and_threads_to_others` |
//! | buffers kept for reads | 8 of 20 KiB, 4 of 128 KiB | `SPARE_SMALL`, `SPARE_LARGE` | given back | `no_more_mappings_are_kept_than_are_worth_it` |
//! | a question of a check | 2.5 s; its answer's head 64 KiB | half of `health_check.timeout_secs` | failed | `an_upstream_that_drips_has_the_timeout_and_no_more`, `an_endless_head_of_an_answer_fails_the_probe` |
//! | questions at a time | 32 | `MOST_THREADS` | they wait for each other | `silent_upstreams_do_not_delay_the_probes_of_others` |
//!
//! # Name servers
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | a look-up | the time to connect, and 5 s | `limits.connect_timeout_secs`, `SILENT_AFTER` | 504; the name is asked for again after 2 s to 32 s | `a_look_up_that_hangs_is_504_and_holds_nobody_else`, `a_silent_name_is_told_at_once_and_its_answer_is_taken_when_it_comes` |
//! | look-ups at a time | 64, and as many that take longer than that; the same again for upstreams | `MOST_LOOK_UPS` | they wait | `many_look_ups_that_hang_leave_addresses_and_known_names_alone` |
//! | those of one address, and of one domain | as many as are left free, and a third of that | `DOMAIN_SHARE` | the others go first | `a_client_that_asks_for_silent_names_keeps_nobody_else_waiting`, `a_silent_zone_that_many_clients_ask_for_keeps_nobody_waiting` |
//! | look-ups that wait | 1024, in the same shares | `MOST_WAITING` | 504 at once | `look_ups_beyond_the_limit_fail_at_once` |
//! | names remembered | 4096 | `MOST_NAMES` | the oldest are forgotten, then all | `names_beyond_the_limit_are_forgotten` |
//! | addresses of a name | 32 | `MOST_ADDRESSES` | the rest is not used | `of_a_name_with_thousands_of_addresses_the_first_few_are_used` |
//!
//! # Clients of the admin server
//!
//! What is behind these limits, `tiny_http`, sees one request at a time that was written here.
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | connections | 64 | `MOST` | the one that was silent longest is closed | `five_hundred_silent_clients_delay_nobody` |
//! | a head | 8 KiB | `HEAD` | 431 | `an_oversized_head_is_refused_and_the_answer_arrives` |
//! | time for it | 5 s | `HEAD_TIME` | 408 | `a_head_that_does_not_come_in_time_is_told_so` |
//! | requests on a connection | 1, without a body | | closed | `only_one_request_is_served_on_a_connection` |
//! | time to take an answer | 30 s | `ANSWER_TIME` | closed | `clients_that_never_read_their_answer_delay_nobody` |
//! | answers not yet taken | 64 MiB in all | `MOST_WAITING` | the one that was not taken longest is dropped | `clients_that_never_read_their_answer_delay_nobody` |
//! | connections in one answer | 1000 | `MOST_TOLD` | the next answer has the others | `many_are_told_page_by_page_each_once` |
//! | the user of an action, as it is told | 64 letters | `MOST_USER` | cut | `who_acts_is_told_by_address_and_user` |
//! | time to make an answer | 5 s | `PATIENCE` | 503 | `an_accept_thread_that_dies_is_replaced_before_anybody_notices` |
//!
//! # Logs
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | lines that wait for the access log | 8 MiB | `MOST_BYTES` | lost and counted | `long_lines_that_wait_take_a_bounded_amount_of_memory`, `a_stuck_sink_never_stops_the_relay` |
//! | complaints about a full disk | one a minute | `COMPLAIN_EVERY` | not made | `a_full_disk_under_the_access_log_is_told_once_and_got_over` |
//! | a line of the log | 8 KiB | `MESSAGE_MAX`, `LINE_MAX` | cut | `a_long_message_is_cut_and_still_one_write` |
//! | a wait for the reader of the log | 500 ms, once | `PATIENCE` | lines are lost and counted | `a_pipe_that_nobody_reads_holds_nobody_up`, `a_blocked_standard_error_holds_nobody_up` |
//! | events kept for `/status` | 150, and 50 suspicions, of 1 KiB | `MOST_EVENTS`, `MOST_SUSPICIONS`, `MOST_TEXT` | the oldest are forgotten | `a_flood_of_suspicions_displaces_nothing_else`, `a_long_text_is_cut_between_two_letters` |
//! | complaints that a peer can cause | one in 30 s of each kind | `EVERY` | counted in the next one | `a_flood_is_one_line_and_a_count` |
//!
//! # Files, and what we ask as clients
//!
//! | what | limit | set by | when reached | test |
//! |---|---|---|---|---|
//! | the configuration | 1 MiB | `FILE_MAX` | an error | `a_file_that_cannot_be_a_configuration_is_refused` |
//! | its values, aliases unfolded | 500000 | `VALUES_MAX` | an error | `an_alias_bomb_is_refused` |
//! | what variables put into it | 1 MiB together | `FILLED_MAX` | an error | `a_long_variable_that_is_named_often_is_refused` |
//! | its open brackets | 1000 | `BRACKETS_MAX` | an error | `brackets_without_end_are_refused_before_the_parser_sees_them` |
//! | what is said about it | 30 messages, 60 bytes of a value, 10 names | `SHOWN_MAX`, `QUOTED_MAX`, `VALUE_MAX`, `NAMES_MAX` | counted | `a_thousand_errors_are_not_a_thousand_lines`, `many_names_are_counted` |
//! | a secret or a file of users | 1 MiB | `FILE_MAX` | an error | `secret_files_that_cannot_be_used_are_named_with_the_reason` |
//! | a list of targets or upstreams | 64 MiB | `LIST_MAX` | an error | `a_list_is_as_large_as_it_likes_up_to_its_limit_and_a_changed_one_is_seen` |
//! | the names of drained upstreams | 2 MiB | `MOST` | a warning, and nobody is drained | `a_file_that_is_of_no_use_drains_nobody_and_is_written_anew` |
//! | the login of a SOCKS5 upstream | 255 bytes each | `SOCKS_LOGIN_MAX` | an error | `a_login_for_socks5_has_1_to_255_bytes_in_each_part` |
//! | bad lines of it that are named | 5 | `NAMED_MAX` | counted | `a_bad_line_of_a_list_is_named_and_skipped_and_fails_the_check` |
//! | numbers in it | a head 1 KiB to 1 MiB, a queue 2^20, a time ten years | `limits.max_header_bytes`, `limits.queue`, `SECONDS_MAX` | an error | `its_examples_are_examples_of_valid_keys` |
//! | an answer to `status` | 64 MiB, 4 million values, 16 levels, 10 s | `MOST`, `MOST_VALUES`, `DEEPEST`, `PATIENCE` | an error | `endless_nesting_is_not_followed`, `endless_lists_are_not_kept` |
//! | answers to `status --connections` | 100 | `MOST_PAGES` | the others are not asked for | `a_relay_that_never_ends_its_pages_is_left` |
//! | connections to the origin of `demo` | 256, each with a head of 64 KiB | `MOST_CONNECTIONS`, `HEAD_MAX` | closed | |
