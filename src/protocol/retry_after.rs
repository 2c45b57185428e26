//! When an answer says to come again (RFC 9110 §10.2.3).

use std::time::Duration;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// How long the value of `Retry-After` asks to wait, at `now` in seconds since 1970: it is a number of seconds or
/// an HTTP-date, and a moment that has passed is no time at all. `None`: it is neither.
pub fn wait(value: &[u8], now: u64) -> Option<Duration> {
    let text = str::from_utf8(value).ok()?.trim();
    let seconds = match decimal_of(text) {
        Some(seconds) => seconds,
        None => unix_seconds(text)?.saturating_sub(now),
    };
    Some(Duration::from_secs(seconds))
}

/// A number of any length: what does not fit is as good as never.
fn decimal_of(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}

/// Reads an HTTP-date in any of its three forms (RFC 9110 §5.6.7). The day of the week is not looked at.
fn unix_seconds(text: &str) -> Option<u64> {
    let words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let words: Vec<_> = words.take(7).collect();
    let (day, month, year, time) = match words.as_slice() {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = 1 + u64::try_from(MONTHS.iter().position(|name| name == month)?).ok()?;
    let day = decimal_of(day).filter(|day| (1..=31).contains(day))?;
    let year = match (decimal_of(year)?, year.len()) {
        (year, 2) if year < 70 => 2000 + year,
        (year, 2) => 1900 + year,
        (year @ 1970..=9999, 4) => year,
        _ => return None,
    };
    let mut parts = time.split(':').map(decimal_of);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// The days from 1970-01-01 to a date after it. A year is taken to begin in March, so that the day of leap years
/// is its last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, now: u64, wanted: Option<u64>) {
        let wanted = wanted.map(Duration::from_secs);
        assert_eq!(wait(value.as_bytes(), now), wanted, "{value}");
    }

    #[test]
    fn it_is_a_number_of_seconds() {
        check("0", 0, Some(0));
        check(" 120 ", 0, Some(120));
        check("99999999999999999999999", 0, Some(u64::MAX));
        for value in ["", "-1", "1.5", "+1", "1 s", "soon", "\u{663}"] {
            check(value, 0, None);
        }
    }

    #[test]
    fn it_is_a_date_in_one_of_three_forms() {
        for date in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            check(date, 784_111_777 - 90, Some(90));
            check(date, 784_111_777 + 90, Some(0));
        }
        check("Thu, 01 Jan 1970 00:00:01 GMT", 0, Some(1));
        check("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800 - 5, Some(5));
        check("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200 - 5, Some(5));
        for date in [
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nix 1994 08:49:37 GMT",
            "Sun, 06 Nov 1894 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT GMT",
        ] {
            check(date, 0, None);
        }
    }
}
