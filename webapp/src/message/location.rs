//! `type: location` (spec/messages.md §2.3). Numbers travel as they were written, as numbers or texts.

use super::shape::{Shape, TEXT, optional, required};

pub(super) static SHAPE: Shape = Shape::Object(&[
    required("longitude", Shape::Degrees(180.0)),
    required("latitude", Shape::Degrees(90.0)),
    optional("name", TEXT),
    optional("address", TEXT),
]);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::message::testing::{accepts, canonical, codes};

    #[test]
    fn numbers_and_numeric_texts_are_places_up_to_the_poles() {
        accepts(
            "location",
            [
                json!({"longitude": -122.42, "latitude": 37.75, "name": "Pier", "address": "Bay 1"}),
                json!({"longitude": "-122.42", "latitude": "37.75"}),
                json!({"longitude": 180, "latitude": -90}),
                json!({"longitude": "-180.0", "latitude": "90"}),
            ],
        );
        let place = json!({"longitude": "-122.42", "latitude": 37.75, "name": "Pier"});
        let mut given = place.clone();
        given["url"] = json!("https://example.org/");
        assert_eq!(canonical("location", given), place);
    }

    #[test]
    fn whatever_is_no_place_is_refused() {
        codes(
            "location",
            [
                (json!({"latitude": 1}), 1008, "location.longitude"),
                (json!({"longitude": 1}), 1008, "location.latitude"),
                (json!({"longitude": "", "latitude": 1}), 1008, "location.longitude"),
                (json!({"longitude": 180.001, "latitude": 1}), 1009, "location.longitude"),
                (json!({"longitude": 1, "latitude": "90.1"}), 1009, "location.latitude"),
                (json!({"longitude": "NaN", "latitude": 1}), 1009, "location.longitude"),
                (json!({"longitude": "inf", "latitude": 1}), 1009, "location.longitude"),
                (json!({"longitude": "1,5", "latitude": 1}), 1009, "location.longitude"),
                (json!({"longitude": true, "latitude": 1}), 1009, "location.longitude"),
                (json!({"longitude": 1, "latitude": 1, "name": 5}), 1009, "location.name"),
                (json!("here"), 1009, "location"),
                (json!(null), 1008, "location"),
            ],
        );
    }
}
