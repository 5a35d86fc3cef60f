// Creates messages and reads them back, with ews-javascript-api as it comes from npm.
//
// usage: node ews_javascript_job.js URL USER PASSWORD ITEMS, with NODE_PATH where it is installed
//
// Prints one line of JSON: what the caller was told.
"use strict";
const ews = require("ews-javascript-api");

const [url, user, password, items] = process.argv.slice(2);
const service = new ews.ExchangeService(ews.ExchangeVersion.Exchange2013);
service.Credentials = new ews.WebCredentials(user, password);
service.Url = new ews.Uri(url);

async function main() {
  const told = { created: 0, errors: [], read: 0 };
  try {
    const messages = Array.from({ length: Number(items) }, (_, n) => {
      const message = new ews.EmailMessage(service);
      message.Subject = `job ${n}`;
      return message;
    });
    const created = await service.CreateItems(
      messages, new ews.FolderId(ews.WellKnownFolderName.Drafts), ews.MessageDisposition.SaveOnly, null);
    const done = [];
    created.Responses.forEach((response, n) => {
      if (response.Result === ews.ServiceResult.Success) done.push(messages[n].Id);
      else told.errors.push(ews.ServiceError[response.ErrorCode]);
    });
    told.created = done.length;
    const read = await service.BindToItems(done, new ews.PropertySet(ews.BasePropertySet.FirstClassProperties));
    told.read = read.Responses.filter((response) => response.Result === ews.ServiceResult.Success).length;
  } catch (error) {
    told.errors.push(String(error.message || error).slice(0, 300));
  }
  console.log(JSON.stringify(told));
}

main();
