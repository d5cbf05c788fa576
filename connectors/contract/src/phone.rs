//! Telephone numbers, which people write in many ways.

use phonenumber::{Mode, country::Id};

/// Whether two ways of writing a telephone number mean the same one: in international form where both can be read, as people of this
/// country write them; else by their last ten digits. Numbers are written without a country more often than not, and shorter ones are
/// many people's.
#[must_use]
pub fn is_same_number(one: &str, other: &str, country: Option<&str>) -> bool {
    let country: Option<Id> = country.and_then(|code| code.parse().ok());
    let international = |text: &str| {
        let number = phonenumber::parse(country, text).ok()?;
        Some(number.format().mode(Mode::E164).to_string())
    };
    match (international(one), international(other)) {
        (Some(one), Some(other)) => one == other,
        _ => last_ten(one).is_some_and(|one| last_ten(other) == Some(one)),
    }
}

fn last_ten(phone: &str) -> Option<String> {
    let digits: Vec<char> = phone.chars().filter(char::is_ascii_digit).collect();
    digits.len().checked_sub(10).map(|from| digits[from..].iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        for (one, other, country, is_same) in [
            ("(310) 555-0142", "+13105550142", Some("US"), true),
            ("1-310-555-0142", "310-555-0142", Some("US"), true),
            ("(310) 555-0142", "+13105550143", Some("US"), false),
            ("(602) 555-0142", "+13105550142", Some("US"), false),
            // As people there write it, the same digits are another number.
            ("020 7946 0018", "+442079460018", Some("GB"), true),
            ("(310) 555-0142", "+13105550142", Some("GB"), false),
            // Nobody says which country.
            ("(310) 555-0142", "+13105550142", None, true),
            ("310 555 0142", "1 (310) 555-0142", None, true),
            ("(602) 555-0142", "+13105550142", None, false),
            ("(310) 555-0142", "+13105550142", Some("nowhere"), true),
            // Both say which.
            ("+443105550142", "+13105550142", None, false),
            ("+1 310 555 0142", "+13105550142", None, true),
            // Without its area it is many people's.
            ("555-0142", "+13105550142", Some("US"), false),
            ("555-0142", "+13105550142", None, false),
            ("555-0142", "555-0142", None, false),
            ("", "", None, false),
        ] {
            assert_eq!(is_same_number(one, other, country), is_same, "{one}, {other}, {country:?}");
            assert_eq!(is_same_number(other, one, country), is_same, "{other}, {one}, {country:?}");
        }
    }
}
