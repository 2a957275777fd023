//! JSON, written into a buffer that may have something in it already. Texts and names are written as they are: they are
//! plain, the same in JSON as out of it, or stand as they do in JSON.

use crate::dates::Date;

/// Whether a text is the same in JSON as out of it.
pub fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 0x7F)
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// An object that is being written, field by field.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    before_field: &'static [u8],
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        Object { out, before_field: b"{\"" }
    }

    pub fn text(&mut self, name: &str, text: &str) {
        self.quoted(name, |out| out.extend_from_slice(text.as_bytes()));
    }

    pub fn date(&mut self, name: &str, ms: u64) {
        self.quoted(name, |out| Date::of(ms).write(out));
    }

    pub fn number(&mut self, name: impl AsRef<[u8]>, number: u64) {
        self.name(name);
        write_number(self.out, number);
    }

    pub fn number_or_null(&mut self, name: &str, number: Option<u8>) {
        match number {
            Some(number) => self.number(name, u64::from(number)),
            None => {
                self.name(name);
                self.out.extend_from_slice(b"null");
            }
        }
    }

    /// A list of what `write` writes for each of `items`.
    pub fn list<T>(&mut self, name: &str, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
        self.name(name);
        self.out.push(b'[');
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write(self.out, item);
        }
        self.out.push(b']');
    }

    /// It has had a field.
    pub fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: impl AsRef<[u8]>) {
        self.out.extend_from_slice(self.before_field);
        self.before_field = b",\"";
        self.out.extend_from_slice(name.as_ref());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, name: &str, write: impl Fn(&mut Vec<u8>)) {
        self.name(name);
        self.out.push(b'"');
        write(self.out);
        self.out.push(b'"');
    }
}
