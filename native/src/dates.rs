//! Dates in UTC, of milliseconds since the epoch.

/// The end of the year 9999: what is later is shown as that.
pub const LAST_MS: u64 = 253_402_300_799_999;

pub struct Date {
    pub year: i32,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub millisecond: u16,
}

impl Date {
    pub fn of(ms: u64) -> Self {
        let ms = ms.min(LAST_MS);
        let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
        // Years that begin with March: a leap day is the last of its year, and every month before it has a fixed place.
        let days = days + 719_468; // from the first of March of the year 0
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Date {
            year: (era * 400 + year + later) as i32,
            month: month as u8,
            day: day as u8,
            hour: (of_day / 3_600_000) as u8,
            minute: (of_day / 60_000 % 60) as u8,
            second: (of_day / 1_000 % 60) as u8,
            millisecond: (of_day % 1_000) as u16,
        }
    }
}

impl Date {
    /// Write RFC 3339, with microseconds where there is a fraction of a second.
    pub fn write(&self, out: &mut Vec<u8>) {
        let year = self.year as u32;
        out.extend_from_slice(&two(year / 100));
        out.extend_from_slice(&two(year % 100));
        for (before, field) in
            [(b'-', self.month), (b'-', self.day), (b'T', self.hour), (b':', self.minute), (b':', self.second)]
        {
            out.push(before);
            out.extend_from_slice(&two(u32::from(field)));
        }
        if self.millisecond > 0 {
            let millisecond = u32::from(self.millisecond);
            out.push(b'.');
            out.extend_from_slice(&two(millisecond / 10));
            out.extend_from_slice(&[b'0' + (millisecond % 10) as u8, b'0', b'0', b'0']);
        }
        out.push(b'Z');
    }
}

fn two(number: u32) -> [u8; 2] {
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}
