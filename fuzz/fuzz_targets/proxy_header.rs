#![no_main]

use overlaybd_proxy_fuzz::targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::proxy_header(data));
