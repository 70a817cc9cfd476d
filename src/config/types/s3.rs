//! `type = "s3"`.

use super::warehouse::batch;
use super::{Given, Made};
use crate::delivery::Wire;
use crate::destination::Batch;
use crate::destination::s3::S3;
use crate::secret::Hidden;
use rusty_s3::{Bucket, UrlStyle};
use url::Url;

const FOLDER: &str = "leads/{{ created_at | date('%Y/%m/%d') }}";

/// Its keys.
pub fn read(given: &mut Given<'_, '_, '_, '_>) -> Option<Made> {
    let region = given.table.name("region").map_or_else(|| "us-east-1".to_owned(), |region| region.value);
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !plain(&region) {
        given.table.fault_of("region", "must be a region's name, as in eu-central-1");
    }
    let elsewhere = given.table.has("url");
    let url = if plain(&region) { given.url_or("url", &format!("https://s3.{region}.amazonaws.com")) } else { given.url_or("url", "") };
    let bucket = given.table.required("bucket");
    // Amazon takes the bucket's name as part of the host's; most others as the beginning of the path.
    let path_style = given.table.flag("path_style", elsewhere);
    let bucket = bucket.and_then(|name| {
        if !plain(&name.value) {
            given.table.fault_at(&name, "must be a bucket's name: letters, digits, hyphens and dots");
            return None;
        }
        let style = if path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        match Bucket::new(url.clone()?, style, name.value.clone(), region.clone()) {
            Ok(bucket) => Some(bucket),
            Err(e) => {
                given.table.fault_at(&name, format!("does not go with url ({e}); set path_style = true"));
                None
            }
        }
    });
    let access_key = given.hidden("access_key").map(|key| Hidden(key.value));
    let secret_key = given.token("secret access key");
    let folder = given.template_or("folder", FOLDER);
    let map = given.map("map");
    let content_type = given.table.name("content_type").map_or_else(|| "application/x-ndjson".to_owned(), |text| text.value);
    let encryption = given.table.name("encryption").map(|text| text.value);
    for (key, value) in [("content_type", Some(&content_type)), ("encryption", encryption.as_ref())] {
        if value.is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
            given.table.fault_of(key, "cannot be sent in a header; it must be one line of text");
        }
    }
    let batch = match given.table.name("object").as_ref().map(|text| text.value.as_str()) {
        None | Some("batch") => batch(given, 256, 200, 30),
        Some("event") => {
            for key in ["batch_max", "linger_seconds"] {
                if given.table.has(key) {
                    given.table.fault_of(key, "has no meaning where every event is an object of its own");
                }
            }
            Batch::ONE
        }
        Some(_) => {
            given.table.fault_of("object", "must be batch or event");
            Batch::ONE
        }
    };
    let (bucket, url): (Bucket, Url) = (bucket?, url?);
    let wire = Wire::Http { tls: url.scheme() == "https" };
    let connector = S3 { bucket, access_key: access_key?, secret_key: secret_key?, folder: folder?, map, content_type, encryption, batch };
    Some(Made { connector: Box::new(connector), wire })
}
