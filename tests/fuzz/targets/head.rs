#![no_main]
#![allow(dead_code)]

#[path = "../../properties/checks/mod.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::head::check(input));
