//! Conversions and the cache: a layer is paid for once.

use crate::source_cache::{Reading, Setting, bytes_of, image, layer_of};
use crate::support::http::get;

#[test]
fn a_conversion_after_a_plain_pull_downloads_no_layer() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(1, 2 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    setting.fill(&format!("app/blobs/{layer}"));
    setting.proxy.converted("app", "1");
    assert_eq!(setting.gate.count("GET", &layer), 1);
    setting.proxy.stop();
}

#[test]
fn a_plain_pull_after_a_conversion_downloads_no_layer() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(2, 2 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    setting.proxy.converted("app", "1");
    let path = format!("app/blobs/{layer}");
    let answer = setting.proxy.get(&path);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body == bytes_of(&image, &layer));
    assert_eq!(setting.gate.count("GET", &layer), 1);
    setting.proxy.stop();
}

#[test]
fn a_conversion_joins_a_download() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(3, 4 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    let hold = setting.gate.halt(&layer, 1 << 20);
    let mut pull = Reading::begin(&setting.proxy, &format!("app/blobs/{layer}"), "");
    assert!(pull.read(1 << 20));
    hold.wait();
    let url = format!("{}/v2/app/manifests/1_obd", setting.proxy.url());
    let converting = std::thread::spawn(move || get(&url));
    crate::support::until::until("the conversion joins", || {
        (setting.outcomes("joined") == 1).then_some(())
    });
    hold.release();
    let converted = converting.join().unwrap();
    assert_eq!(converted.status, 200, "{converted:?}");
    assert!(pull.rest().1 == bytes_of(&image, &layer));
    assert_eq!(setting.gate.count("GET", &layer), 1);
    setting.proxy.stop();
}

#[test]
fn a_conversion_goes_on_when_the_download_that_it_joined_brings_other_bytes() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(4, 4 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    let hold = setting.gate.halt(&layer, 1 << 20);
    setting.gate.damage(&layer, 1);
    let mut pull = Reading::begin(&setting.proxy, &format!("app/blobs/{layer}"), "");
    assert!(pull.read(1 << 20));
    hold.wait();
    let url = format!("{}/v2/app/manifests/1_obd", setting.proxy.url());
    let converting = std::thread::spawn(move || get(&url));
    crate::support::until::until("the conversion joins", || {
        (setting.outcomes("joined") == 1).then_some(())
    });
    hold.release();
    let converted = converting.join().unwrap();
    assert_eq!(converted.status, 200, "{converted:?}");
    assert!(pull.rest().1.len() < bytes_of(&image, &layer).len());
    setting.proxy.stop();
}

#[test]
fn a_conversion_goes_on_when_the_download_that_it_joined_breaks_off() {
    let Some(setting) = Setting::new(&["--attempts", "1"]) else {
        return;
    };
    let image = image(6, 4 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    let hold = setting.gate.halt(&layer, 1 << 20);
    let mut pull = Reading::begin(&setting.proxy, &format!("app/blobs/{layer}"), "");
    assert!(pull.read(1 << 20));
    hold.wait();
    let url = format!("{}/v2/app/manifests/1_obd", setting.proxy.url());
    let converting = std::thread::spawn(move || get(&url));
    crate::support::until::until("the conversion joins", || {
        (setting.outcomes("joined") == 1).then_some(())
    });
    hold.cut();
    let converted = converting.join().unwrap();
    assert_eq!(converted.status, 200, "{converted:?}");
    assert!(pull.rest().1.len() < bytes_of(&image, &layer).len());
    assert_eq!(setting.gate.count("GET", &layer), 2);
    setting.proxy.stop();
}

#[test]
fn a_layer_that_comes_damaged_once_is_fetched_again_for_a_conversion() {
    let Some(setting) = Setting::new(&[]) else {
        return;
    };
    let image = image(5, 1 << 20);
    setting.registry.push("app", "1", &image);
    let layer = layer_of(&image);
    setting.gate.damage(&layer, 1);
    setting.proxy.converted("app", "1");
    assert_eq!(setting.gate.count("GET", &layer), 2);
    setting.proxy.stop();
}
